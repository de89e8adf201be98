"""A request whose month was finalised before it was settled: billed in a later month, and counted where it ended."""

from __future__ import annotations

import csv
import io
import sqlite3
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.config import NANOS
from tenantd.domain import Usage
from tenantd.ledger.finalising import keep, make_ready
from tenantd.ledger.focus import focus_csv
from tenantd.ledger.inspection import Check, inspect
from tenantd.ledger.invoice_proof import prove
from tenantd.ledger.invoices import Month, invoice
from tenantd.ledger.paperwork import Paperwork
from tenantd.ledger.prices import insert_prices
from tenantd.ledger.reports import recent_requests
from tenantd.ledger.requests import get_request, insert_request, interrupt_running
from tenantd.ledger.row_pruning import delete_some
from tenantd.ledger.spending import uses_from
from tenantd.ledger.sums import sums
from tests.ledger.bills import (
    DAY,
    HOUR,
    NOVEMBER,
    USED,
    add,
    add_tenant,
    at,
    ledger,
    month,
    no_record,
    price_list,
)
from tests.ledger.books import admission
from tests.support.examples import examples

LATER = at("2028-01-01 00:00")
MONTHS = ("2026-10", "2026-11", "2026-12", "2027-01")
TOKENS = USED.prompt_tokens + USED.completion_tokens
CAN_BE_WRONG = (Check.FILE, Check.REQUESTS, Check.HOURS, Check.BUDGETS, Check.QUOTAS, Check.INVOICES)


def finalise(conn: sqlite3.Connection, which: Month, tenant_id: int | None = None) -> None:
    keep(conn, which, tenant_id, make_ready(conn, which, tenant_id, Paperwork()), "", LATER, no_record)


def add_budget(conn: sqlite3.Connection, period: str, unit: str = "tokens", amount: int = 10**15) -> None:
    conn.execute(
        """INSERT INTO budgets (tenant_id, key_id, period, unit, amount, warn, set_micros)
        VALUES (1, '', ?, ?, ?, '', 0)""",
        (period, unit, amount),
    )


def wrong(conn: sqlite3.Connection) -> list[str]:
    """What the check says of all that rows and sums have to do with."""
    conn.execute("BEGIN")
    try:
        return [breach.what for breach in inspect(conn).breaches if breach.check in CAN_BE_WRONG]
    finally:
        conn.execute("COMMIT")


def test_it_counts_where_it_ended_and_is_billed_in_the_next_month() -> None:
    lists = (
        price_list(free_prompt_tokens=20),
        price_list(free_prompt_tokens=20, effective_micros=NOVEMBER.until_micros, input_nanos_per_million=0),
    )
    with ledger(*lists) as conn:
        add_tenant(conn, 1, "acme")
        add_budget(conn, "daily")
        add(conn, "first", "2026-11-15 12:00")
        finalise(conn, NOVEMBER)
        add(conn, "late", "2026-11-15 13:00")
        late = get_request(conn, "late")
        assert (late.ended_micros, late.billed_micros) == (at("2026-11-15 13:00"), NOVEMBER.until_micros)
        assert (late.price_id, late.free_prompt_tokens) == (1, 8), "price and quota of November"
        assert [use.used for use in uses_from(conn, 0)] == [2 * TOKENS], "of the same day"
        assert sums(conn, NOVEMBER.since_micros, NOVEMBER.until_micros, ())[()]["requests"] == 2
        (december,) = invoice(conn, month("2026-12")).tenants
        assert (december.requests, december.total_nanos) == (1, late.cost_nanos)
        assert wrong(conn) == []


def test_a_month_that_was_finalised_with_a_clock_that_was_ahead_stops_no_count() -> None:
    with ledger() as conn:
        add_tenant(conn, 1, "acme")
        add_budget(conn, "daily", amount=TOKENS)
        add(conn, "before", "2026-11-15 12:00")
        finalise(conn, NOVEMBER)  # on the 16th: the clock was weeks ahead
        for day in (16, 17, 18):
            add(conn, f"on {day}", f"2026-11-{day} 12:00")
        assert [(use.used, use.since_micros) for use in uses_from(conn, 0)] == [
            (TOKENS, at(f"2026-11-{day} 00:00")) for day in (15, 16, 17, 18)
        ]
        add(conn, "of December", "2026-12-02 12:00")
        (december,) = invoice(conn, month("2026-12")).tenants
        assert december.requests == 4
        finalise(conn, month("2026-12", now_micros=LATER))
        assert prove(conn).findings == wrong(conn) == []


def test_it_is_billed_at_its_end_if_only_a_later_month_is_finalised() -> None:
    with ledger() as conn:
        add_tenant(conn, 1, "acme")
        add(conn, "of December", "2026-12-15 12:00")
        finalise(conn, month("2026-12", now_micros=LATER))
        add(conn, "of November", "2026-11-15 12:00")
        insert_request(conn, admission("killed", created_micros=at("2026-12-31 10:00")))
        (killed,) = interrupt_running(conn, at("2026-12-31 11:00"))
        assert get_request(conn, "of November").billed_micros is None
        assert (killed.ended_micros, killed.billed_micros) == (at("2026-12-31 11:00"), at("2027-01-01 00:00"))
        assert [part.requests for part in invoice(conn, NOVEMBER).tenants] == [1]


@pytest.mark.parametrize("until", ["2026-12", "2027-01"])
def test_its_invoice_is_proved_when_its_row_is_pruned(until: str) -> None:
    with ledger() as conn:
        add_tenant(conn, 1, "acme")
        add(conn, "first", "2026-11-15 12:00")
        finalise(conn, NOVEMBER)
        add(conn, "late", "2026-11-20 12:00")
        add(conn, "of December", "2026-12-02 12:00")
        finalise(conn, month("2026-12", now_micros=LATER))
        conn.execute(
            "INSERT INTO row_prunings (month, timezone, until_micros, at_micros) VALUES (?, 'UTC', ?, 5)",
            (until, month(until).since_micros),
        )
        while delete_some(conn) is not None:
            pass
        proof = prove(conn)
        assert (proof.checked, proof.without_rows, proof.findings) == (2, 2, [])
        assert wrong(conn) == []


class Ended(NamedTuple):
    tenant: str
    ended: int
    usage: Usage
    unbilled: bool


class Finalised(NamedTuple):
    month: str
    tenant_id: int | None


tokens = st.integers(0, 10**6)
edges = [month(name).until_micros for name in MONTHS]
moments = st.one_of(
    st.integers(month("2026-10").since_micros, edges[-1]),
    st.builds(lambda edge, off: edge + off * HOUR // 2, st.sampled_from(edges), st.integers(-3, 3)),
)
ends = st.builds(
    Ended,
    st.sampled_from(["acme", "globex"]),
    moments,
    st.builds(Usage, prompt_tokens=tokens, completion_tokens=tokens, engine_micros=tokens),
    st.booleans(),
)
steps = st.lists(
    st.one_of(ends, st.builds(Finalised, st.sampled_from(MONTHS), st.sampled_from([None, 1, 2]))), max_size=20
)


@given(steps=steps, is_pruned=st.booleans())
@examples(120)
def test_each_request_is_billed_once_and_counts_once_whatever_was_finalised_before(
    steps: list[Any], is_pruned: bool
) -> None:
    with ledger(price_list(free_prompt_tokens=10**6)) as conn:
        insert_prices(conn, price_list(output_nanos_per_million=7, effective_micros=edges[1]))
        for number, name in ((1, "acme"), (2, "globex")):
            add_tenant(conn, number, name)
        add_budget(conn, "daily", "money", 3 * 10**8)
        add_budget(conn, "monthly")
        for number, step in enumerate(steps):
            if isinstance(step, Ended):
                add(conn, f"r{number}", step.ended, step.usage, tenant=step.tenant, unbilled=step.unbilled)
            else:
                finalise(conn, month(step.month, now_micros=LATER), step.tenant_id)
        rows = recent_requests(conn, None, 1000)
        if is_pruned:
            until_micros = edges[1]
            conn.execute(
                "INSERT INTO row_prunings (month, timezone, until_micros, at_micros) VALUES ('2026-12', 'UTC', ?, 5)",
                (until_micros,),
            )
            while delete_some(conn) is not None:
                pass
        bills = [invoice(conn, month(name, now_micros=LATER)) for name in (*MONTHS, "2027-02")]
        billed = [row for row in rows if not row.unbilled]
        for tenant in (1, 2):
            parts = [part for bill in bills for part in bill.tenants if part.tenant_id == tenant]
            own = [row for row in billed if row.tenant_id == tenant]
            assert sum(part.requests for part in parts) == len(own)
            assert sum(part.total_nanos for part in parts) == sum(row.cost_nanos for row in own)
        for bill in bills:
            text = focus_csv(conn, month(bill.month, now_micros=LATER))
            costs = [round(float(row["BilledCost"]) * NANOS) for row in csv.DictReader(io.StringIO(text))]
            assert sum(costs) == bill.total_nanos
        spent = {row["day"]: row["used"] for row in _spent(conn)}
        assert spent == {
            day: sum(row.cost_nanos for row in billed if row.tenant_id == 1 and (row.ended_micros or 0) // DAY == day)
            for day in {(row.ended_micros or 0) // DAY for row in billed if row.tenant_id == 1}
        }
        assert prove(conn).findings == wrong(conn) == []


def _spent(conn: sqlite3.Connection) -> list[dict[str, int]]:
    """Of the daily budget, by day since 1970."""
    return [
        {"day": use.since_micros // DAY, "used": use.used}
        for use in uses_from(conn, 0)
        if use.budget.id == 1 and use.since_micros % DAY == 0
    ]
