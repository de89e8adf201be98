"""Budgets as figures show them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from tenantd.domain import BudgetUnit
from tenantd.periods import Period
from tenantd.tenancy.known_tenants import known_tenants
from tests.ledger.books import NOW_MICROS, memory_ledger

ZONE = ZoneInfo("Europe/Berlin")
DAY = 24 * 3_600_000_000


def test_a_budget_is_shown_with_what_was_used_in_its_present_period() -> None:
    conn = memory_ledger()
    conn.execute("INSERT INTO tenants (id, name, weight, priority, state, uids, limits, created_micros) "
                 "VALUES (7, 'acme', 1, 'standard', 'active', '[]', '{}', 0)")  # fmt: skip
    for key_id, expires in (("live", None), ("over", NOW_MICROS), ("later", NOW_MICROS + 1)):
        conn.execute(
            "INSERT INTO keys (id, tenant, tenant_id, hash, prefix, label, created_micros, scopes, expires_micros) "
            "VALUES (?, 'acme', 7, ?, 'td', '', 0, 'run', ?)",
            (key_id, key_id.rjust(64, "0"), expires),
        )
    assert known_tenants(conn, NOW_MICROS, ZONE)[7].budgets == ()
    budgets = [(1, "", "daily", 100), (2, "live", "monthly", 50), (3, "over", "daily", 9), (4, "later", "daily", 0)]
    for number, key_id, period, amount in budgets:
        conn.execute("INSERT INTO budgets VALUES (?, 7, ?, ?, 'tokens', ?, '', 0)", (number, key_id, period, amount))
    [before, *_] = known_tenants(conn, NOW_MICROS, ZONE)[7].budgets
    for since_micros, used in ((before.resets_micros - DAY, 30), (before.resets_micros - 2 * DAY, 99)):
        conn.execute("INSERT INTO budget_uses VALUES (1, ?, ?, 11, 0)", (since_micros, used))
    daily, later, monthly = known_tenants(conn, NOW_MICROS, ZONE)[7].budgets
    assert (before.used, before.cap) == (0, 100)
    assert (daily.used, daily.cap, daily.key_id, daily.unit) == (30, 111, None, BudgetUnit.TOKENS)
    assert (monthly.used, monthly.cap, monthly.key_id, monthly.period) == (0, 50, "live", Period.MONTHLY)
    assert later.key_id == "later"
    assert known_tenants(conn, daily.resets_micros, ZONE)[7].budgets[0].used == 0
    conn.close()
