"""Tenants as reports know them: also those that were removed, because they used something."""

from __future__ import annotations

from sqlite3 import Connection
from zoneinfo import ZoneInfo

from tenantd.costs import full_weight
from tenantd.domain import Priority, Tenant
from tenantd.ledger.budget_uses import budgets_in_use
from tenantd.ledger.window import Customer
from tenantd.tenancy.tenants import REMOVED


def all_customers(conn: Connection, now_micros: int, timezone: ZoneInfo) -> dict[int, Customer]:
    """Every tenant there is or was, by id. Periods of budgets are of the time zone."""
    budgets = budgets_in_use(conn, now_micros, timezone)
    rows = conn.execute("SELECT id, name, weight, priority, throttled_micros, state FROM tenants")
    return {
        number: Customer(
            tenant_id=number,
            name=name,
            weight=full_weight(
                Tenant(name=name, weight=weight, priority=Priority(priority), throttled_micros=throttled_micros)
            ),
            is_removed=state == REMOVED,
            budgets=tuple(budgets.get(number, ())),
        )
        for number, name, weight, priority, throttled_micros, state in rows
    }
