"""What the writer waits for, and what one tenant can ask for, takes as long in a large ledger as in a small one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from zoneinfo import ZoneInfo

import pytest

from tenantd.domain import BudgetUnit, FinishReason, Usage
from tenantd.ledger.finalising import keep, make_ready
from tenantd.ledger.idempotency import KeyedBody, find_first, keep_key
from tenantd.ledger.invoices import parse_month
from tenantd.ledger.paperwork import Paperwork
from tenantd.ledger.prices import insert_prices
from tenantd.ledger.requests import insert_request, settle_request
from tenantd.ledger.spending import Budget, begin_use
from tenantd.ledger.sums import Percentiles, sums
from tenantd.periods import UTC_ZONE, Period
from tests.ledger.bills import HOUR, NOVEMBER, NOW, SECOND, no_record, price_list
from tests.ledger.books import admission, memory_ledger, settlement

FEW, MANY = 60, 480
STEP = 10
"""SQLite's instructions in a step that is counted."""
Prepare = Callable[[sqlite3.Connection], Callable[[], object]]


def budget(conn: sqlite3.Connection, period: Period) -> Budget:
    conn.execute(
        """INSERT INTO tenants (name, weight, priority, state, uids, limits, created_micros)
        VALUES ('acme', 1, 'standard', 'active', '[]', '{}', 0)"""
    )
    conn.execute(
        """INSERT INTO budgets (tenant_id, period, unit, amount, warn, set_micros)
        VALUES (1, ?, 'tokens', 1000, '', 0)""",
        (period.value,),
    )
    return Budget(id=1, tenant_id=1, period=period, unit=BudgetUnit.TOKENS, amount=1000)


def begin_budget(conn: sqlite3.Connection) -> Callable[[], object]:
    one = budget(conn, Period.MONTHLY)
    return lambda: begin_use(conn, one, NOVEMBER.until_micros - HOUR, UTC_ZONE)


def begin_within_an_hour(conn: sqlite3.Connection) -> Callable[[], object]:
    one = budget(conn, Period.DAILY)
    return lambda: begin_use(conn, one, NOW, ZoneInfo("Asia/Kolkata"))


def finalise(conn: sqlite3.Connection) -> Callable[[], object]:
    december = parse_month("2026-12", UTC_ZONE, NOW + 40 * 24 * HOUR)
    ready = make_ready(conn, december, None, Paperwork())
    return lambda: keep(conn, december, None, ready, "", NOW, no_record)


def find_key(conn: sqlite3.Connection) -> Callable[[], object]:
    keep_key(conn, KeyedBody(tenant_id=1, key="k", body_hash=bytes(32)), ["r0-1"], NOW)
    return lambda: find_first(conn, 1, "k", NOW)


def ask_for_usage(conn: sqlite3.Connection) -> Callable[[], object]:
    since, until = NOW - HOUR // 2, NOW + HOUR // 2
    return lambda: (sums(conn, since, until, (), tenant_id=1), Percentiles(conn, since, until, tenant_id=1))


def steps(work: Callable[[], object], conn: sqlite3.Connection) -> int:
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    conn.set_progress_handler(count, STEP)
    work()
    conn.set_progress_handler(None, 0)
    return counted[0]


def steps_with(rows: int, prepare: Prepare) -> int:
    """In a ledger in which two tenants have this many requests each, one an hour in each until November ends; the
    second has them with as many keys."""
    with closing(memory_ledger()) as conn:
        insert_prices(conn, price_list())
        for number in range(2 * rows):
            of, place = number % 2, number // 2
            ended = NOVEMBER.until_micros - (1 + place % FEW) * HOUR
            name, key = (("acme", None), ("globex", f"key{place}"))[of]
            row = admission(f"r{of}-{place}", created_micros=ended - SECOND, tenant=name, tenant_id=of + 1, key_id=key)
            insert_request(conn, row)
            used = Usage(prompt_tokens=1, completion_tokens=1)
            settle_request(conn, settlement(row.id, used, state=FinishReason.STOP, duration_micros=SECOND))
        return steps(prepare(conn), conn)


@pytest.mark.parametrize("prepare", [begin_budget, begin_within_an_hour, finalise, find_key, ask_for_usage])
def test_it_reads_no_more_in_a_larger_ledger(prepare: Prepare) -> None:
    few, many = steps_with(FEW, prepare), steps_with(MANY, prepare)
    assert 0 < many <= few + few // 20, f"{few} steps became {many}"
