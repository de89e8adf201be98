"""Free quotas: the first tokens of a month cost nothing, in whatever order requests end or are charged anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Usage
from tenantd.ledger.charging import give_back
from tenantd.ledger.prices import cost_of, insert_prices
from tenantd.ledger.records import PriceList, RequestRecord
from tenantd.ledger.requests import get_request, insert_request, interrupt_running, reopen_interrupted, settle_request
from tenantd.ledger.rollups import add_row
from tenantd.periods import EPOCH
from tests.ledger.books import admission, memory_ledger, settlement
from tests.support.examples import examples

PRICES = PriceList(
    id=0,
    currency="USD",
    input_nanos_per_million=100_000_007,  # so that most amounts are rounded
    output_nanos_per_million=400_000_009,
    engine_hour_nanos=0,
    effective_micros=0,
    cached_nanos_per_million=50_000_003,
    free_prompt_tokens=1_000,
    free_completion_tokens=500,
)
BERLIN = ZoneInfo("Europe/Berlin")


def micros(*when: int) -> int:
    return (datetime(*when, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)  # type: ignore[misc,arg-type]


NOVEMBER = micros(2026, 11, 10)


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with closing(memory_ledger()) as conn:
        insert_prices(conn, PRICES)
        yield conn


def ended(
    conn: sqlite3.Connection, name: str, tokens: tuple[int, int], at_micros: int = NOVEMBER, **changes: object
) -> RequestRecord:
    """A request that has just ended, at `at_micros`."""
    insert_request(conn, admission(name, created_micros=at_micros, **changes))
    usage = Usage(prompt_tokens=tokens[0], completion_tokens=tokens[1])
    return settle_request(conn, settlement(name, usage, duration_micros=0), BERLIN)


def free_tokens(row: RequestRecord) -> tuple[int, int]:
    return row.free_prompt_tokens, row.free_completion_tokens


def test_the_first_tokens_of_a_month_cost_nothing_and_the_rest_its_price(conn: sqlite3.Connection) -> None:
    first = ended(conn, "r1", (600, 500))
    assert (free_tokens(first), first.cost_nanos) == ((600, 500), 0)
    assert first.list_nanos == first.free_nanos > 0
    second = ended(conn, "r2", (600, 1))
    rest = cost_of(Usage(prompt_tokens=200, completion_tokens=1), PRICES)
    assert (free_tokens(second), second.cost_nanos) == ((400, 0), rest.input_nanos + rest.output_nanos)
    third = ended(conn, "r3", (7, 7))
    assert (free_tokens(third), third.free_nanos) == ((0, 0), 0)
    other = ended(conn, "r4", (7, 7), tenant="globex")
    assert (free_tokens(other), other.cost_nanos) == ((7, 7), 0), "each tenant has its own"


def test_a_quota_begins_anew_at_midnight_of_the_billing_time_zone(conn: sqlite3.Connection) -> None:
    last_of_november = micros(2026, 11, 30, 22, 59)  # 23:59 in Berlin
    assert free_tokens(ended(conn, "r1", (1_000, 0), last_of_november)) == (1_000, 0)
    assert free_tokens(ended(conn, "r2", (9, 0), last_of_november)) == (0, 0)
    assert free_tokens(ended(conn, "r3", (9, 0), last_of_november + 60_000_000)) == (9, 0)


def test_cached_tokens_and_engine_time_are_in_no_quota(conn: sqlite3.Connection) -> None:
    insert_request(conn, admission("r1", created_micros=NOVEMBER))
    row = settle_request(conn, settlement("r1", Usage(prompt_tokens=5, cached_tokens=1_000)))
    assert (row.cached_nanos, row.cost_nanos) == (50_000, 50_000)


def test_what_nobody_pays_for_uses_up_no_quota(conn: sqlite3.Connection) -> None:
    row = ended(conn, "r1", (1_000, 500), unbilled=True)
    assert (free_tokens(row), row.free_nanos, row.cost_nanos) == ((0, 0), 0, 0)
    assert free_tokens(ended(conn, "r2", (1_000, 500))) == (1_000, 500)


def test_a_quota_follows_the_id_of_its_tenant_and_not_its_name(conn: sqlite3.Connection) -> None:
    ended(conn, "r1", (1_000, 0), tenant_id=1)
    assert free_tokens(ended(conn, "r2", (9, 0), tenant_id=1, tenant="renamed")) == (0, 0)
    assert free_tokens(ended(conn, "r3", (9, 0), tenant_id=77, tenant="acme")) == (9, 0)


def test_a_quota_that_is_raised_within_a_month_gives_the_difference(conn: sqlite3.Connection) -> None:
    ended(conn, "r1", (5_000, 0))
    insert_prices(conn, msgspec.structs.replace(PRICES, free_prompt_tokens=1_500, effective_micros=NOVEMBER))
    assert free_tokens(ended(conn, "r2", (5_000, 0))) == (500, 0)
    insert_prices(conn, msgspec.structs.replace(PRICES, free_prompt_tokens=10, effective_micros=NOVEMBER))
    assert free_tokens(ended(conn, "r3", (5_000, 0))) == (0, 0)


def test_an_interrupted_request_that_is_settled_after_all_gets_its_quota_once(conn: sqlite3.Connection) -> None:
    insert_request(conn, admission("r1", created_micros=NOVEMBER))
    conn.execute("UPDATE requests SET prompt_tokens = 300 WHERE id = 'r1'")
    interrupt_running(conn, NOVEMBER, BERLIN)
    assert free_tokens(get_request(conn, "r1")) == (300, 0)
    reopen_interrupted(conn, "r1", BERLIN)
    row = settle_request(conn, settlement("r1", Usage(prompt_tokens=900)), BERLIN)
    assert free_tokens(row) == (900, 0)
    assert free_tokens(ended(conn, "r2", (900, 0))) == (100, 0)


tokens = st.integers(0, 800)


@given(
    requests=st.lists(st.tuples(tokens, tokens, st.booleans()), max_size=12), order=st.randoms(use_true_random=False)
)
@examples(60)
def test_no_order_of_ends_and_no_row_charged_anew_gives_more_or_less(
    requests: list[tuple[int, int, bool]], order: object
) -> None:
    with closing(memory_ledger()) as conn:
        insert_prices(conn, PRICES)
        turns = list(enumerate(requests))
        order.shuffle(turns)  # type: ignore[attr-defined]
        for number, (prompt, completion, is_charged_anew) in turns:
            ended(conn, f"r{number}", (prompt, completion))
            if is_charged_anew:
                conn.execute("UPDATE requests SET state = 'interrupted' WHERE id = ?", (f"r{number}",))
                reopen_interrupted(conn, f"r{number}", BERLIN)
                usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
                settle_request(conn, settlement(f"r{number}", usage, duration_micros=0), BERLIN)
        rows = [get_request(conn, f"r{number}") for number, _ in turns]
        given = tuple(sum(column) for column in zip(*map(free_tokens, rows), strict=True)) or (0, 0)
        assert given == (min(1_000, sum(r[0] for r in requests)), min(500, sum(r[1] for r in requests)))
        kept = conn.execute("SELECT total(prompt_tokens), total(completion_tokens) FROM free_uses").fetchone()
        assert kept == given
        for row in rows:
            beyond = Usage(
                prompt_tokens=row.prompt_tokens - row.free_prompt_tokens,
                completion_tokens=row.completion_tokens - row.free_completion_tokens,
            )
            assert row.cost_nanos == sum(msgspec.structs.astuple(cost_of(beyond, PRICES)))
        for row in rows:
            give_back(conn, row, BERLIN)
            add_row(conn, row, -1)
        assert conn.execute("SELECT total(prompt_tokens + completion_tokens) FROM free_uses").fetchone() == (0,)


def test_after_a_change_of_the_time_zone_no_month_gives_its_quota_twice(conn: sqlite3.Connection) -> None:
    utc, late = ZoneInfo("UTC"), micros(2026, 11, 30, 23, 30)  # December in Berlin
    insert_request(conn, admission("r1", created_micros=late))
    conn.execute("UPDATE requests SET prompt_tokens = 700 WHERE id = 'r1'")
    interrupt_running(conn, late, utc)
    assert free_tokens(ended(conn, "r2", (600, 0), late + 3_600_000_000)) == (600, 0)
    reopen_interrupted(conn, "r1", BERLIN)
    row = settle_request(conn, settlement("r1", Usage(prompt_tokens=700), duration_micros=0), BERLIN)
    assert free_tokens(row) == (400, 0), "what r2 has of December stays taken"
