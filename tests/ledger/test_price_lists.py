"""Dated price lists: what applies when, for whom, and what setting one changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Tenant, Usage
from tenantd.errors import InvalidRequest
from tenantd.ledger.price_dates import begin_micros
from tenantd.ledger.price_lists import PriceState, listed_prices, set_prices, tenants_with_own
from tenantd.ledger.prices import cost_of, minimum_of, prices_at
from tenantd.ledger.records import PriceList, RequestRecord
from tenantd.ledger.requests import insert_request, settle_request
from tenantd.periods import EPOCH
from tenantd.tenancy.tenants import add_tenant, remove_tenant
from tests.ledger.books import BILLING, add_prices, admission, memory_ledger, settlement
from tests.support.examples import examples

NOW = 1_000_000
OUTPUT = "output_nanos_per_million"
INPUT = "input_nanos_per_million"
BERLIN = ZoneInfo("Europe/Berlin")
ACME, GLOBEX = 1, 2


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with closing(memory_ledger()) as conn:
        for name in ("acme", "globex"):
            add_tenant(conn, Tenant(name=name))
        add_prices(conn, BILLING, 0)
        yield conn


def put(
    conn: sqlite3.Connection, since: int | None, output: int, tenant_id: int | None = None, now: int = NOW
) -> PriceList:
    return set_prices(conn, tenant_id, since, {OUTPUT: output}, now)[1]


def ended_at(conn: sqlite3.Connection, name: str, end_micros: int, tenant: str = "acme") -> RequestRecord:
    """A request that took a second, and ended at that moment."""
    insert_request(conn, admission(name, tenant=tenant, created_micros=end_micros - 1_000_000))
    return settle_request(conn, settlement(name, Usage(completion_tokens=1_000_000), duration_micros=1_000_000))


def test_a_request_has_the_prices_of_its_end_and_the_list_begins_with_its_moment(conn: sqlite3.Connection) -> None:
    put(conn, 5_000_000, 5)
    put(conn, 9_000_000, 9)
    costs = [ended_at(conn, f"r{end}", end).output_nanos for end in (4_999_999, 5_000_000, 8_999_999, 9_000_000)]
    assert costs == [400_000_000, 5, 5, 9], "it began a second earlier each time"


def test_what_is_not_given_stays_as_it_is_at_that_date(conn: sqlite3.Connection) -> None:
    set_prices(conn, None, 5_000_000, {INPUT: 5, "minimum_nanos": 7}, NOW)
    before, after = set_prices(conn, None, 9_000_000, {OUTPUT: 9, "free_prompt_tokens": 3}, NOW)
    assert (before.input_nanos_per_million, before.output_nanos_per_million) == (5, 400_000_000)
    assert (after.input_nanos_per_million, after.output_nanos_per_million, after.minimum_nanos) == (5, 9, 7)
    assert (after.free_prompt_tokens, after.engine_hour_nanos) == (3, 1_500_000_000)
    between = set_prices(conn, None, 7_000_000, {INPUT: 6}, NOW)[1]
    assert (between.input_nanos_per_million, between.output_nanos_per_million) == (6, 400_000_000)
    assert prices_at(conn, 9_000_000).input_nanos_per_million == 5, "what was set for later stays"


def test_the_same_date_again_replaces_what_was_to_come(conn: sqlite3.Connection) -> None:
    first, second = put(conn, 5_000_000, 5), put(conn, 5_000_000, 6)
    assert prices_at(conn, 5_000_000) == second
    states = {one.id: (one.state, one.until_micros) for one in listed_prices(conn, NOW)}
    assert states[first.id][0] is PriceState.REPLACED
    assert states[second.id] == (PriceState.FUTURE, None)
    assert states[1] == (PriceState.IN_FORCE, 5_000_000)
    assert {one.id: one.state for one in listed_prices(conn, 5_000_000)}[1] is PriceState.PAST


def test_a_tenant_can_have_its_own_and_give_them_up(conn: sqlite3.Connection) -> None:
    put(conn, 2_000_000, 20, ACME)
    put(conn, 3_000_000, 30)
    before, after = set_prices(conn, ACME, 4_000_000, {}, NOW, like_all=True)
    assert (before.output_nanos_per_million, after.output_nanos_per_million, after.follows_general) == (20, 30, 1)
    put(conn, 5_000_000, 50)
    acme = [ended_at(conn, f"a{end}", end).output_nanos for end in range(1_000_000, 6_000_000, 1_000_000)]
    globex = [ended_at(conn, f"g{end}", end, "globex").output_nanos for end in range(1_000_000, 6_000_000, 1_000_000)]
    assert acme == [400_000_000, 20, 20, 30, 50]
    assert globex == [400_000_000, 400_000_000, 30, 30, 50]
    assert [tenants_with_own(conn, at) for at in (1_000_000, 2_000_000, 4_000_000)] == [[], ["acme"], []]
    assert [(one.tenant, one.like_all) for one in listed_prices(conn, NOW, ACME)] == [
        *[(None, False)] * 3,
        ("acme", False),
        ("acme", True),
    ]
    assert {one.tenant for one in listed_prices(conn, NOW, GLOBEX)} == {None}
    again = set_prices(conn, ACME, 6_000_000, {}, NOW, like_all=True)
    assert again[0] == again[1], "it has none to give up"
    assert put(conn, 7_000_000, 70, ACME).input_nanos_per_million == 100_000_000


def test_own_prices_are_of_the_tenants_id(conn: sqlite3.Connection) -> None:
    put(conn, None, 20, ACME)
    remove_tenant(conn, "acme", NOW)
    assert {one.tenant for one in listed_prices(conn, NOW)} == {None}
    assert {one.tenant for one in listed_prices(conn, NOW, ACME)} == {None, "acme"}
    add_tenant(conn, Tenant(name="acme"))
    assert prices_at(conn, NOW, 3).output_nanos_per_million == 400_000_000
    assert prices_at(conn, NOW, ACME).output_nanos_per_million == 20
    assert tenants_with_own(conn, NOW) == []


def test_prices_that_would_apply_anyway_are_no_new_list_but_a_tenant_can_pin_them(conn: sqlite3.Connection) -> None:
    before, after = set_prices(conn, None, None, {OUTPUT: 400_000_000}, NOW)
    assert before == after and len(listed_prices(conn, NOW)) == 1
    pinned = put(conn, None, 400_000_000, ACME)
    assert (pinned.tenant_id, pinned.id) == (ACME, 2)
    put(conn, None, 9)
    assert prices_at(conn, NOW, ACME).output_nanos_per_million == 400_000_000
    assert put(conn, 8_000_000, 9) != put(conn, 6_000_000, 7), "a later date that was set stays"
    assert prices_at(conn, 8_000_000).output_nanos_per_million == 9


def test_prices_from_now_on_stay_when_a_clock_that_was_ahead_gets_there_again(conn: sqlite3.Connection) -> None:
    put(conn, None, 5, now=8_000_000)  # the clock is ahead
    put(conn, None, 6, now=9_000_000)
    put(conn, 12_000_000, 12, now=9_000_000)
    put(conn, None, 7, now=2_000_000)  # it was set right
    assert [prices_at(conn, at).output_nanos_per_million for at in (2_000_000, 8_000_000, 9_000_000)] == [7, 7, 7]
    assert prices_at(conn, 12_000_000).output_nanos_per_million == 12, "a date is a date"
    assert ended_at(conn, "early", 1_500_000).output_nanos == 400_000_000


def test_before_the_first_list_the_first_applies(conn: sqlite3.Connection) -> None:
    conn.execute("UPDATE prices SET effective_micros = 5000000")
    put(conn, 9_000_000, 9, now=6_000_000)
    assert ended_at(conn, "r1", 2_000_000).output_nanos == 400_000_000
    assert listed_prices(conn, 2_000_000)[0].state is PriceState.IN_FORCE


def test_the_minimum_is_that_in_force_at_the_end_of_a_month(conn: sqlite3.Connection) -> None:
    set_prices(conn, None, 5_000_000, {"minimum_nanos": 50}, NOW)
    set_prices(conn, ACME, 6_000_000, {"minimum_nanos": 60}, NOW)
    assert [minimum_of(conn, ACME, until) for until in (5_000_000, 5_000_001, 6_000_001)] == [0, 50, 60]
    assert minimum_of(conn, GLOBEX, 9_000_000) == 50
    add_tenant(conn, Tenant(name="later", created_micros=7_000_000))
    add_tenant(conn, Tenant(name="free", unbilled=True))
    assert [minimum_of(conn, 3, until) for until in (7_000_000, 7_000_001)] == [0, 50]
    assert minimum_of(conn, 4, 9_000_000) == 0


def micros(*when: int) -> int:
    return (datetime(*when, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("2026-12-01", (2026, 11, 30, 23)),
        ("2026-12-01T18:00", (2026, 12, 1, 17)),
        ("2026-12-01 18:00:30", (2026, 12, 1, 17, 0, 30)),
        ("2026-12-01T18:00Z", (2026, 12, 1, 18)),
        ("2026-12-01T18:00-05:00", (2026, 12, 1, 23)),
        ("2027-10-31T02:30", (2027, 10, 31, 0, 30)),  # clocks show it twice
        ("2027-10-31T02:30+01:00", (2027, 10, 31, 1, 30)),
        ("9998-12-31", (9998, 12, 30, 23)),
    ],
)
def test_a_date_begins_in_the_billing_time_zone(text: str, begins: tuple[int, ...]) -> None:
    assert begin_micros(text, BERLIN, micros(2026, 11, 29)) == micros(*begins)
    assert begin_micros("now", BERLIN, 5) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *[(text, "must be now, a date") for text in ("2026-13-01", "2026-02-30", "", "soon", "2026-1-1", "20261201")],
        *[
            (text, "must be now, a date")
            for text in ("2026-12-01T25:00", "٢٠٢٦-12-01", "2026-12-01\n", "1e9", "0000-01-01")
        ],
        ("2027-03-28T02:30", "does not exist in Europe/Berlin, because clocks skip it"),
        *[(text, "has passed, and prices of the past") for text in ("2026-11-28", "1969-12-31", "0001-01-01")],
        ("2026-11-29T00:59", r"invoiced, write a credit note: tenantctl invoice credit"),
        *[(text, "before the year 9999") for text in ("9999-01-01", "9999-12-31T23:59", "9999-12-31T23:59-12:00")],
    ],
)
def test_what_is_no_date_or_has_passed_is_refused_with_what_to_do(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        begin_micros(text, BERLIN, micros(2026, 11, 29))
    assert refused.value.param == "from"


changes = st.lists(
    st.tuples(
        st.integers(0, 20),  # now
        st.none() | st.integers(0, 10),  # from then on, or now
        st.sampled_from([None, ACME, GLOBEX]),
        st.integers(0, 3),  # the price; 0 ends a tenant's own
    ),
    max_size=12,
)


@given(changes=changes, ends=st.lists(st.integers(0, 40), max_size=8))
@examples(80)
def test_what_applies_is_the_list_set_last_for_the_latest_date_of_the_tenant_or_else_of_all(
    changes: list[tuple[int, int | None, int | None, int]], ends: list[int]
) -> None:
    told: dict[int | None, dict[int, int]] = {None: {0: 400_000_000}, ACME: {}, GLOBEX: {}}  # date → price
    with closing(memory_ledger()) as conn:
        for name in ("acme", "globex"):
            add_tenant(conn, Tenant(name=name))
        add_prices(conn, BILLING, 0)
        now = 0
        for after, ahead, tenant_id, price in changes:
            now = max(now, after)
            if not price and tenant_id is None:
                continue
            since = now if ahead is None else now + ahead
            is_own = price or _in_force(told[tenant_id], since) is not None
            set_prices(
                conn,
                tenant_id,
                None if ahead is None else since,
                {OUTPUT: price} if price else {},
                now,
                like_all=not price,
            )
            if is_own:
                told[tenant_id][since] = price
        for number, end in enumerate(ends):
            for tenant_id, name in ((ACME, "acme"), (GLOBEX, "globex")):
                row_id = f"r{number}{name}"
                insert_request(conn, admission(row_id, tenant=name, tenant_id=tenant_id, created_micros=0))
                usage = Usage(completion_tokens=999_999)
                row = settle_request(conn, settlement(row_id, usage, duration_micros=end))
                price = _in_force(told[tenant_id], end) or _in_force(told[None], end)
                assert price is not None
                prices = prices_at(conn, end, tenant_id)
                assert (prices.output_nanos_per_million, row.price_id) == (price, prices.id)
                assert row.list_nanos == cost_of(usage, prices).output_nanos
        for tenant_id in (ACME, GLOBEX):  # the report says the same at every moment
            for at in range(40):
                shown = [one for one in listed_prices(conn, at, tenant_id) if one.state is PriceState.IN_FORCE]
                own = [one for one in shown if one.tenant_id is not None and not one.like_all]
                [general] = [one for one in shown if one.tenant_id is None]
                assert prices_at(conn, at, tenant_id).id == (own[0] if own else general).id


def _in_force(dates: dict[int, int], at: int) -> int | None:
    begun = [date for date in dates if date <= at]
    return (dates[max(begun)] or None) if begun else None
