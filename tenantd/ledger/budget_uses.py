"""How much of each budget is used in its present period."""

from __future__ import annotations

from sqlite3 import Connection
from zoneinfo import ZoneInfo

import msgspec

from tenantd.domain import BudgetUnit
from tenantd.ledger.spending import all_budgets, uses_from
from tenantd.periods import Period, bounds


class BudgetUse(msgspec.Struct, frozen=True, kw_only=True):
    """A budget and what was used of it since its period began, in its unit: nano-units of money, tokens, or
    microseconds of engine time. `cap` includes what was added for this period. `key_id` is None for all keys."""

    id: int
    key_id: str | None
    period: Period
    unit: BudgetUnit
    cap: int
    used: int
    resets_micros: int


def budgets_in_use(conn: Connection, now_micros: int, timezone: ZoneInfo) -> dict[int, list[BudgetUse]]:
    """By tenant, without those of keys that have ended."""
    if not (budgets := all_budgets(conn)):
        return {}
    periods = {period: bounds(period, now_micros, timezone) for period in Period}
    uses = {
        (use.budget.id, use.since_micros): use
        for use in uses_from(conn, min(each.since_micros for each in periods.values()))
    }
    ended = "SELECT id FROM keys WHERE revoked_micros <= :now OR expires_micros <= :now"
    without = {key_id for (key_id,) in conn.execute(ended, {"now": now_micros})}
    found: dict[int, list[BudgetUse]] = {}
    for budget in budgets:
        if budget.key_id in without:
            continue
        period = periods[budget.period]
        use = uses.get((budget.id, period.since_micros))
        found.setdefault(budget.tenant_id, []).append(
            BudgetUse(
                id=budget.id,
                key_id=budget.key_id or None,
                period=budget.period,
                unit=budget.unit,
                cap=budget.amount if use is None else use.cap,
                used=0 if use is None else use.used,
                resets_micros=period.until_micros,
            )
        )
    return found
