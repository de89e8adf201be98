"""What budgets use is counted with each row, what is beyond them is waived, and both are undone with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import BudgetUnit, Usage
from tenantd.ledger.charging import give_back
from tenantd.ledger.prices import insert_prices
from tenantd.ledger.records import PriceList, RequestRecord
from tenantd.ledger.requests import insert_request, interrupt_running, reopen_interrupted, settle_request
from tenantd.ledger.spending import Use, all_budgets, begin_use, begin_uses, counting, heirs, mark_warned, uses_from
from tenantd.periods import Period
from tests.ledger.books import NOW_MICROS, admission, memory_ledger, settlement

PRICES = PriceList(
    id=0,
    currency="USD",
    input_nanos_per_million=100_000_007,
    output_nanos_per_million=400_000_009,
    engine_hour_nanos=3_600_000_000_000,
    effective_micros=0,
)
UTC = ZoneInfo("UTC")
MONTH_MICROS = 31 * 86_400_000_000


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with closing(ledger()) as conn:
        yield conn


def ledger() -> sqlite3.Connection:
    conn = memory_ledger()
    insert_prices(conn, PRICES)
    for number, name in ((1, "acme"), (2, "globex")):
        conn.execute(
            """INSERT INTO tenants (id, name, weight, priority, state, uids, limits, created_micros)
            VALUES (?, ?, 1.0, 'standard', 'active', '[]', '{}', 0)""",
            (number, name),
        )
    return conn


def set_budget(
    conn: sqlite3.Connection, unit: BudgetUnit, amount: int, key_id: str = "", period: Period = Period.MONTHLY
) -> None:
    conn.execute(
        "INSERT INTO budgets (tenant_id, key_id, period, unit, amount, warn, set_micros) VALUES (1, ?, ?, ?, ?, ?, 0)",
        (key_id, period.value, unit.value, amount, "50,80,100"),
    )


def ended(
    conn: sqlite3.Connection, name: str, usage: Usage, uses: list[Use] | None = None, **changes: object
) -> RequestRecord:
    insert_request(conn, admission(name, **changes))
    return settle_request(conn, settlement(name, usage, duration_micros=0), UTC, uses)


def used(conn: sqlite3.Connection) -> list[int]:
    return [use.used for use in sorted(uses_from(conn, 0), key=lambda use: (use.budget.id, use.since_micros))]


def tokens(prompt: int, completion: int = 0, micros: int = 0) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, engine_micros=micros)


def test_each_budget_counts_what_it_limits(conn: sqlite3.Connection) -> None:
    for unit in BudgetUnit:
        set_budget(conn, unit, 10**15)
    row = ended(conn, "r1", tokens(1_000, 500, 2_000))
    assert used(conn) == [row.cost_nanos, 1_500, 2_000]
    assert row.waived_nanos == 0 < row.cost_nanos


def test_a_bill_never_passes_a_budget_of_money(conn: sqlite3.Connection) -> None:
    set_budget(conn, BudgetUnit.MONEY, 300_000)
    first, second, third = (ended(conn, f"r{n}", tokens(1_000, 100)) for n in range(3))
    assert first.waived_nanos == 0
    assert first.cost_nanos + second.cost_nanos + third.cost_nanos == 300_000 == used(conn)[0]
    assert third.list_nanos == first.list_nanos, "its list price is kept"


def test_engine_time_beyond_its_budget_is_waived_in_money(conn: sqlite3.Connection) -> None:
    set_budget(conn, BudgetUnit.ENGINE, 1_500)
    first, second = (ended(conn, f"r{n}", tokens(0, 0, 1_000)) for n in range(2))
    assert (first.cost_nanos, second.cost_nanos) == (first.engine_nanos, second.engine_nanos // 2)
    assert used(conn) == [2_000], "time is counted as it was used"


def test_money_does_not_apply_to_what_appears_on_no_invoice(conn: sqlite3.Connection) -> None:
    set_budget(conn, BudgetUnit.MONEY, 1)
    set_budget(conn, BudgetUnit.TOKENS, 100)
    row = ended(conn, "r1", tokens(10, 5), unbilled=True)
    assert (row.waived_nanos, row.cost_nanos) == (0, 0)
    assert used(conn) == [15]


def test_levels_are_reached_once_and_the_highest_is_told(conn: sqlite3.Connection) -> None:
    set_budget(conn, BudgetUnit.TOKENS, 100)
    told = []
    for n, count in enumerate((49, 1, 20, 15, 5, 10, 1)):
        ended(conn, f"r{n}", tokens(count), uses := [])
        told.append(uses[0].level)
    assert told == [None, 50, None, 80, None, 100, None]
    mark_warned(conn, uses[0], 100, UTC)
    assert uses_from(conn, 0)[0].warned == 100


def test_levels_reached_at_a_start_are_left_for_the_next_request(conn: sqlite3.Connection) -> None:
    set_budget(conn, BudgetUnit.TOKENS, 100)
    ended(conn, "r1", tokens(60))
    ended(conn, "r2", tokens(1), uses := [])
    assert uses[0].level == 50


def test_a_row_counts_in_the_period_of_its_end_and_in_the_budgets_of_its_key(conn: sqlite3.Connection) -> None:
    set_budget(conn, BudgetUnit.TOKENS, 100)
    set_budget(conn, BudgetUnit.TOKENS, 100, key_id="key_1")
    ended(conn, "r1", tokens(10), key_id="key_1")
    ended(conn, "r2", tokens(20))
    ended(conn, "r3", tokens(40), created_micros=NOW_MICROS + MONTH_MICROS)
    assert used(conn) == [30, 40, 10]


def test_what_ran_when_the_daemon_died_counts_and_is_counted_anew_when_it_is_settled_after_all(
    conn: sqlite3.Connection,
) -> None:
    set_budget(conn, BudgetUnit.TOKENS, 100)
    set_budget(conn, BudgetUnit.MONEY, 10**12)
    insert_request(conn, admission("r1"))
    conn.execute("UPDATE requests SET prompt_tokens = 7, completion_tokens = 3")
    [row] = interrupt_running(conn, NOW_MICROS, UTC)
    assert used(conn) == [10, row.cost_nanos]
    reopen_interrupted(conn, "r1", UTC)
    assert used(conn) == [0, 0]
    row = settle_request(conn, settlement("r1", tokens(7, 8), duration_micros=0), UTC)
    assert used(conn) == [15, row.cost_nanos]


def test_a_budget_that_is_set_in_its_period_counts_what_was_used_before(conn: sqlite3.Connection) -> None:
    ended(conn, "r1", tokens(10, 5, 7), key_id="key_1")
    ended(conn, "r2", tokens(20, 0, 3))
    ended(conn, "other", tokens(99), tenant="globex", tenant_id=2)
    billed = conn.execute("SELECT sum(input_nanos + output_nanos + engine_nanos) FROM requests WHERE tenant_id = 1")
    for unit in BudgetUnit:
        set_budget(conn, unit, 1_000)
    set_budget(conn, BudgetUnit.TOKENS, 1_000, key_id="key_1")
    for budget in all_budgets(conn):
        begin_use(conn, budget, NOW_MICROS, UTC)
    assert used(conn) == [billed.fetchone()[0], 35, 10, 15]
    again = begin_use(conn, all_budgets(conn)[1], NOW_MICROS, UTC)
    assert again.used == 35, "what is counted already is kept"


def test_the_first_request_of_a_period_counts_what_ended_in_it_before(conn: sqlite3.Connection) -> None:
    """As after a change of the time zone."""
    ended(conn, "before", tokens(30))
    set_budget(conn, BudgetUnit.TOKENS, 100)
    ended(conn, "r1", tokens(12), uses := [])
    assert used(conn) == [42] == [use.used for use in uses]
    ended(conn, "r2", tokens(10), uses := [])
    assert [(use.used, use.level) for use in uses] == [(52, 50)]


def test_a_period_that_was_counted_in_part_is_counted_anew(conn: sqlite3.Connection) -> None:
    """As after a change of the time zone and back."""
    set_budget(conn, BudgetUnit.TOKENS, 100)
    ended(conn, "r1", tokens(12))
    conn.execute("UPDATE budget_uses SET used = 2, topped_up = 7")
    [use] = begin_uses(conn, all_budgets(conn), NOW_MICROS, UTC)
    assert (use.used, use.topped_up) == (12, 7)


def test_a_key_that_was_rotated_counts_in_the_budget_of_the_one_that_replaced_it(conn: sqlite3.Connection) -> None:
    for number, after in (("key_1", "key_2"), ("key_2", "key_3"), ("key_3", None)):
        conn.execute(
            """INSERT INTO keys (id, tenant, tenant_id, hash, prefix, label, created_micros, scopes, replaced_by)
            VALUES (?, 'acme', 1, ?, '', '', 0, 'run', ?)""",
            (number, number.ljust(64, "0"), after),
        )
    ended(conn, "before", tokens(4), key_id="key_1")
    set_budget(conn, BudgetUnit.TOKENS, 100, key_id="key_3")
    begin_use(conn, all_budgets(conn)[0], NOW_MICROS, UTC)
    for number in (1, 2, 3, 4):
        ended(conn, f"r{number}", tokens(10), key_id=f"key_{number}")
    assert used(conn) == [34]
    assert heirs(conn) == {"key_1": ["key_1", "key_2", "key_3"], "key_2": ["key_2", "key_3"]}
    assert not counting(conn, 2, "key_1"), "another tenant's"


@given(st.integers(0, 2_000_000), st.integers(0, 3_000), st.lists(st.tuples(*[st.integers(0, 1_000)] * 3), max_size=8))
def test_the_sum_of_bills_is_what_was_used_and_never_more_than_the_amount(
    nanos: int, micros: int, rows: list[tuple[int, int, int]]
) -> None:
    with closing(ledger()) as conn:
        set_budget(conn, BudgetUnit.MONEY, nanos)
        set_budget(conn, BudgetUnit.ENGINE, micros)
        found = [ended(conn, f"r{n}", tokens(*row)) for n, row in enumerate(rows)]
        assert all(0 <= row.waived_nanos <= row.list_nanos for row in found)
        total = sum(row.cost_nanos for row in found)
        assert total <= nanos and (not rows or used(conn)[0] == total)
        for row in found:
            give_back(conn, row, UTC)
        assert not any(used(conn))
