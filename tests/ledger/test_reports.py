"""Reports and invoices: what they add up to."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Usage
from tenantd.ledger.audit import append
from tenantd.ledger.invoices import AuditHead, Month, invoice
from tenantd.ledger.prices import AmountTooLarge, cost_of, divide_half_up, latest_prices
from tenantd.ledger.records import PriceList, Settlement
from tenantd.ledger.reports import Booked, last_minute, recent_requests, recent_usage, usage_report
from tenantd.ledger.requests import checkpoint_request, insert_request, interrupt_running, settle_request
from tests.ledger import books
from tests.ledger.books import BILLING, add_prices, admission, memory_ledger
from tests.ledger.trails import entry
from tests.support.examples import examples

MONTH = Month(name="2026-11", timezone="UTC", since_micros=1_000, until_micros=2_000, is_over=True)
ENDS = list(FinishReason)


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with closing(memory_ledger()) as conn:
        add_prices(conn, BILLING, 0)
        yield conn


def add(conn: sqlite3.Connection, request_id: str, tenant: str = "acme", created_micros: int = 1_500) -> None:
    insert_request(conn, admission(request_id, tenant=tenant, created_micros=created_micros))


def settlement(request_id: str, usage: Usage | None = None, **changes: Any) -> Settlement:
    """Of a request that ends when it begins, so that both are in the same period."""
    return books.settlement(request_id, usage, **{"duration_micros": 0, **changes})


def test_a_report_counts_ends_tokens_and_costs_by_tenant(conn: sqlite3.Connection) -> None:
    for state in FinishReason:
        add(conn, state.value)
        settle_request(conn, settlement(state.value, state=state))
    add(conn, "now")
    checkpoint_request(conn, "now", Usage(prompt_tokens=1, completion_tokens=2, engine_micros=3))
    add(conn, "other", tenant="globex")
    for name, created_micros in (("before", 999), ("after", 2_000)):
        add(conn, name, created_micros=created_micros)

    acme, globex = usage_report(conn, 1_000, 2_000)
    assert (acme.requests, acme.running, acme.completed, acme.failed, acme.interrupted) == (7, 1, 2, 1, 1)
    assert (acme.cancelled, acme.disconnected, acme.error_rate) == (1, 1, 2 / 6)
    assert (acme.prompt_tokens, acme.completion_tokens, acme.engine_micros) == (6 * 12 + 1, 6 * 30 + 2, 240_003)
    assert acme.cost_nanos == 6 * 29_867
    assert (globex.tenant, globex.requests, globex.running, globex.error_rate) == ("globex", 1, 1, 0.0)
    assert (globex.p99_duration_micros, globex.average_duration_micros, globex.cost_nanos) == (None, None, 0)
    assert [row.tenant for row in usage_report(conn, 1_000, 2_000, 2)] == ["globex"]
    assert usage_report(conn, 1_000, 2_000, 99) == []


@given(durations=st.lists(st.integers(0, 10_000), min_size=1, max_size=120))
@examples(40)
def test_percentiles_are_the_nearest_rank(durations: list[int]) -> None:
    with closing(memory_ledger()) as conn:
        add_prices(conn, BILLING, 0)
        for n, duration_micros in enumerate(durations):
            add(conn, f"r{n}")
            first = None if n % 2 else duration_micros // 2
            settle_request(conn, settlement(f"r{n}", duration_micros=duration_micros, first_token_micros=first))
        (row,) = usage_report(conn, 1_000, 20_000)

    def nearest_rank(values: list[int], percent: int) -> int:
        return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]

    assert (row.p50_duration_micros, row.p99_duration_micros) == tuple(nearest_rank(durations, p) for p in (50, 99))
    firsts = [duration_micros // 2 for duration_micros in durations[::2]]
    assert (row.p50_first_token_micros, row.p99_first_token_micros) == tuple(nearest_rank(firsts, p) for p in (50, 99))
    assert row.average_duration_micros == pytest.approx(sum(durations) / len(durations), abs=0.51)


def test_an_unbilled_request_is_on_no_invoice_and_costs_nothing_and_is_still_counted(conn: sqlite3.Connection) -> None:
    add(conn, "billed")
    for name, tenant in (("free", "acme"), ("bench", "bench-1"), ("running", "bench-1")):
        insert_request(conn, admission(name, tenant=tenant, created_micros=1_500, unbilled=True))
    for name in ("billed", "free", "bench"):
        settle_request(conn, settlement(name))

    append(conn, [entry("e1"), entry("e2")])
    bill = invoice(conn, MONTH)
    (digest,) = conn.execute("SELECT hash FROM audit WHERE number = 2").fetchone()
    assert bill.audit_head == AuditHead(number=2, hash=digest.hex())
    [part] = bill.tenants
    assert (part.tenant, part.requests, part.completion_tokens, part.total_nanos) == ("acme", 1, 30, 29_867)
    assert (bill.total_nanos, bill.open) == (29_867, False)
    acme, bench = usage_report(conn, 1_000, 2_000)
    assert (acme.requests, acme.completion_tokens, acme.cost_nanos) == (2, 60, 29_867)
    assert (bench.requests, bench.completion_tokens, bench.cost_nanos) == (2, 30, 0)
    costs = {row.id: (row.unbilled, row.cost_nanos) for row in recent_requests(conn, None, 10)}
    assert costs == {"billed": (False, 29_867), "free": (True, 0), "bench": (True, 0), "running": (True, 0)}


def test_a_tenant_is_its_id_whatever_it_was_called_and_two_of_one_name_are_two(conn: sqlite3.Connection) -> None:
    for n, (tenant_id, name, created_micros) in enumerate(
        [(1, "acme", 1_100), (1, "acme", 1_200), (1, "acme2", 1_300), (7, "acme", 1_400)]
    ):
        insert_request(conn, admission(f"r{n}", tenant=name, tenant_id=tenant_id, created_micros=created_micros))
        settle_request(conn, settlement(f"r{n}"))
    insert_request(conn, admission("later", tenant="acme3", tenant_id=1, created_micros=2_000))
    assert [(row.tenant, row.tenant_id, row.requests) for row in usage_report(conn, 1_000, 2_000)] == [
        ("acme", 7, 1),
        ("acme2", 1, 3),
    ]
    bill = invoice(conn, MONTH)
    assert [(part.tenant, part.tenant_id, part.requests) for part in bill.tenants] == [("acme", 7, 1), ("acme2", 1, 3)]
    assert [part.tenant for part in invoice(conn, MONTH, 1).tenants] == ["acme2"], "the name it had last"
    october = msgspec.structs.replace(MONTH, until_micros=1_250)
    assert [part.tenant for part in invoice(conn, october, 1).tenants] == ["acme"], "the name it was made under"
    assert [(row.tenant, row.tenant_id) for row in recent_requests(conn, 1, 2)] == [("acme3", 1), ("acme2", 1)]


def test_recent_requests_come_newest_first(conn: sqlite3.Connection) -> None:
    for n, created_micros in enumerate([1_100, 1_300, 1_200, 1_300]):
        add(conn, f"r{n}", tenant="acme" if n else "globex", created_micros=created_micros)
    assert [row.id for row in recent_requests(conn, None, 3)] == ["r3", "r1", "r2"]
    assert [row.id for row in recent_requests(conn, 2, 3)] == ["r0"]


def test_sums_over_64_bits_are_refused_in_words(conn: sqlite3.Connection) -> None:
    for n in range(2):
        add(conn, f"r{n}")
        settle_request(conn, settlement(f"r{n}", Usage(completion_tokens=2**54)))
    with pytest.raises(AmountTooLarge, match="does not fit 64 bits"):
        usage_report(conn, 1_000, 2_000)
    with pytest.raises(AmountTooLarge):
        invoice(conn, MONTH)


tokens = st.integers(0, 10**9)
rows = st.lists(
    st.tuples(
        st.sampled_from(["acme", "globex", "initech"]),
        st.builds(Usage, prompt_tokens=tokens, completion_tokens=tokens, engine_micros=tokens),
        st.sampled_from([999, 1_000, 1_500, 1_999, 2_000]),  # created
        st.sampled_from([*ENDS, None]),
        st.sampled_from(["0", "0.10", "0.123456789"]),  # price from here on
    ),
    max_size=30,
)


@given(numerator=st.integers(0, 10**30), denominator=st.integers(1, 10**12))
def test_amounts_are_rounded_half_up(numerator: int, denominator: int) -> None:
    doubled_error = 2 * (divide_half_up(numerator, denominator) * denominator - numerator)
    assert -denominator < doubled_error <= denominator


@given(usage=st.builds(Usage, prompt_tokens=tokens, completion_tokens=tokens, engine_micros=tokens))
def test_a_cost_is_within_half_a_nano_of_the_exact_one(usage: Usage) -> None:
    prices = PriceList(
        id=1,
        currency="USD",
        input_nanos_per_million=123_456_789,
        output_nanos_per_million=1,
        engine_hour_nanos=987_654_321,
        effective_micros=0,
    )
    cost = cost_of(usage, prices)
    assert abs(cost.input_nanos - Decimal(usage.prompt_tokens * 123_456_789) / 10**6) <= Decimal("0.5")
    assert abs(cost.output_nanos - Decimal(usage.completion_tokens) / 10**6) <= Decimal("0.5")
    assert abs(cost.engine_nanos - Decimal(usage.engine_micros * 987_654_321) / 3_600_000_000) <= Decimal("0.5")


def test_the_last_minute_has_tokens_of_what_ended_in_it_and_requests_that_began_in_it(conn: sqlite3.Connection) -> None:
    now_micros, second = 3_600_000_000, 1_000_000
    for name, age_s, took_s in (("old", 90, 20), ("long", 90, 80), ("short", 30, 5)):
        add(conn, name, created_micros=now_micros - age_s * second)
        settle_request(conn, settlement(name, duration_micros=took_s * second))
    add(conn, "running", tenant="globex", created_micros=now_micros - 10 * second)
    assert last_minute(conn, now_micros) == [
        Booked(1, 30 * second, 0, 1),
        Booked(1, 25 * second, 42, 0),
        Booked(1, 10 * second, 42, 0),
        Booked(2, 10 * second, 0, 1),
    ]


def test_what_was_interrupted_in_the_last_minute_counts_from_when_its_daemon_last_wrote(
    conn: sqlite3.Connection,
) -> None:
    now_micros, second = 3_600_000_000, 1_000_000
    prices = latest_prices(conn)
    assert prices is not None
    for name, age_s in (("long", 90), ("short", 30)):
        add(conn, name, created_micros=now_micros - age_s * second)
        checkpoint_request(conn, name, Usage(prompt_tokens=5, completion_tokens=2))
    assert len(interrupt_running(conn, now_micros - 20 * second)) == 2
    assert last_minute(conn, now_micros) == [
        Booked(1, 30 * second, 0, 1),
        Booked(1, 20 * second, 7, 0),
        Booked(1, 20 * second, 7, 0),
    ]
    assert [usage.age_s for usage in recent_usage(conn, now_micros, 3600)] == [20.0]
