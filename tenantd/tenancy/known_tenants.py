"""Tenants as reports know them: also those that were removed, because they used something."""

from __future__ import annotations

from sqlite3 import Connection
from zoneinfo import ZoneInfo

from tenantd.costs import full_weight
from tenantd.domain import Priority, Tenant
from tenantd.ledger.window import BudgetUse, KnownTenant
from tenantd.tenancy.budget_rows import list_budgets
from tenantd.tenancy.tenants import REMOVED


def known_tenants(conn: Connection, now_micros: int, timezone: ZoneInfo) -> dict[int, KnownTenant]:
    """Every tenant there is or was, by id. Periods of budgets are of the time zone."""
    budgets: dict[int, list[BudgetUse]] = {}
    for one in list_budgets(conn, now_micros, timezone):
        use = BudgetUse(
            id=one.id,
            key_id=one.key_id,
            period=one.period,
            unit=one.unit,
            cap=one.cap,
            used=one.used,
            resets_micros=one.resets_micros,
        )
        budgets.setdefault(one.tenant_id, []).append(use)
    rows = conn.execute("SELECT id, name, weight, priority, throttled_micros, state FROM tenants")
    return {
        number: KnownTenant(
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
