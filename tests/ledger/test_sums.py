"""Sums from roll-ups and edges are those of the rows, for any period, grouping and time zone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Usage
from tenantd.errors import InvalidRequest
from tenantd.ledger.buckets import bucket_of, percentile, value_of
from tenantd.ledger.grouped import Grouping, usage_by
from tenantd.ledger.rollups import COUNTS, DURATION, FIRST_TOKEN, SUMS, add_row, hour_of
from tenantd.ledger.sums import Percentiles, sums
from tenantd.periods import days, hours
from tests.ledger.many_rows import (
    BASE,
    HOUR,
    SPAN,
    Made,
    ended_in,
    ledger_with,
    made,
    many,
    moments,
    nearest_rank,
    periods,
    total,
)
from tests.ledger.test_months import local
from tests.support.examples import examples

some = examples(60)
zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe", "Asia/Amman"]
).map(ZoneInfo)
KEYS = ("tenant_id", "key_id", "model", "adapter", "price_id", "unbilled", "hour_micros")


def key_of(row: Any, name: str) -> Any:
    if name == "hour_micros":
        return hour_of(row.ended_micros)
    return row.key_id or "" if name == "key_id" else getattr(row, name)


@some
@given(
    rows=many,
    period=periods,
    by=st.lists(st.sampled_from(KEYS), unique=True, max_size=3),
    tenant_id=st.sampled_from([None, None, 1, 2]),
    key_id=st.sampled_from([None, None, "key_1"]),
    billed=st.booleans(),
)
def test_sums_are_those_of_the_rows(
    rows: list[Made], period: list[int], by: list[str], tenant_id: int | None, key_id: str | None, billed: bool
) -> None:
    since, until = (BASE + moment for moment in period)
    with ledger_with(rows) as (conn, records):
        found = sums(conn, since, until, by, tenant_id=tenant_id, key_id=key_id, billed=billed)
    chosen = [
        row
        for row in ended_in(records, since, until)
        if tenant_id in (None, row.tenant_id) and key_id in (None, row.key_id) and not (billed and row.unbilled)
    ]
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in chosen:
        groups.setdefault(tuple(key_of(row, name) for name in by), []).append(row)
    wanted = {key: {name: total(own, name) for name in (*COUNTS, *SUMS)} for key, own in groups.items()}
    assert {key: each for key, each in found.items() if each["requests"]} == wanted


@some
@given(rows=many, cuts=st.lists(moments, max_size=6))
def test_the_parts_of_a_period_add_up_to_the_whole(rows: list[Made], cuts: list[int]) -> None:
    bounds = [BASE, *sorted(BASE + cut for cut in cuts), BASE + SPAN + 1]
    with ledger_with(rows) as (conn, _):
        parts: dict[Any, Counter[str]] = {}
        for since, until in pairwise(bounds):
            for key, part in sums(conn, since, until, ("tenant_id", "model")).items():
                parts.setdefault(key, Counter()).update(part)
        assert {key: dict(part) for key, part in parts.items()} == sums(
            conn, bounds[0], bounds[-1], ("tenant_id", "model")
        )


@some
@given(rows=many, period=periods, zone=zones, grouping=st.sampled_from([Grouping.DAY, Grouping.HOUR]))
def test_a_day_and_an_hour_have_what_ended_in_them_by_the_clocks_of_the_zone(
    rows: list[Made], period: list[int], zone: ZoneInfo, grouping: Grouping
) -> None:
    since, until = (BASE + moment for moment in period)
    with ledger_with(rows) as (conn, records):
        found = usage_by(conn, grouping, since, until, zone)

    def name(row: Any) -> str:
        clock = local(row.ended_micros, zone)
        if grouping is Grouping.DAY:
            return f"{clock:%Y-%m-%d}"
        return clock.isoformat()[:13] + ":00" + clock.isoformat()[-6:]

    wanted: dict[str, list[Any]] = {}
    for row in ended_in(records, since, until):
        wanted.setdefault(name(row), []).append(row)
    assert {group.name for group in found} == wanted.keys()
    assert len(found) == len(wanted) and found == sorted(found, key=lambda group: group.since_micros or 0)
    for group in found:
        own = wanted[group.name]
        assert (group.requests, group.engine_micros) == (len(own), total(own, "engine_micros"))
        assert group.cost_nanos == sum(row.cost_nanos for row in own)
        assert group.list_nanos == sum(row.list_nanos for row in own if not row.unbilled)
        assert since <= (group.since_micros or 0) < (group.until_micros or 0) <= until


@some
@given(rows=many, period=periods, tenant_id=st.sampled_from([None, 1]))
def test_every_grouping_adds_up_to_the_same(rows: list[Made], period: list[int], tenant_id: int | None) -> None:
    since, until = (BASE + moment for moment in period)
    with ledger_with(rows) as (conn, records):
        own = [row for row in ended_in(records, since, until) if tenant_id in (None, row.tenant_id)]
        for grouping in Grouping:
            found = usage_by(conn, grouping, since, until, ZoneInfo("Asia/Kolkata"), tenant_id)
            assert sum(group.requests for group in found) == len(own)
            assert sum(group.cost_nanos for group in found) == sum(row.cost_nanos for row in own)
            assert sum(group.completion_tokens for group in found) == total(own, "completion_tokens")
            assert len({(group.name, group.tenant_id) for group in found}) == len(found)


@some
@given(rows=st.lists(made, max_size=40), period=periods, tenant_id=st.sampled_from([None, 1]))
def test_percentiles_are_within_two_percent_and_exact_over_an_hour(
    rows: list[Made], period: list[int], tenant_id: int | None
) -> None:
    with ledger_with(rows) as (conn, records):
        for since, until in ((BASE + period[0], BASE + period[1]), (BASE + period[0], BASE + period[0] + HOUR)):
            found = Percentiles(conn, since, until)
            assert found.is_exact == (until - since <= HOUR)
            own = [row for row in ended_in(records, since, until) if tenant_id in (None, row.tenant_id)]
            for metric in (DURATION, FIRST_TOKEN):
                values = [micros for row in own if (micros := getattr(row, f"{metric}_micros")) is not None]
                for percent in (50, 95, 99):
                    wanted, said = nearest_rank(values, percent), found.of(tenant_id, metric, percent)
                    if wanted is None or said is None or found.is_exact:
                        assert said == wanted
                    else:
                        assert abs(said - wanted) <= 0.02 * wanted + 1, "to the microsecond below 50 µs"


@some
@given(rows=many, period=periods, tenant_id=st.sampled_from([None, 1]), taken_out=st.integers(0, 3))
def test_percentiles_of_days_are_those_of_their_hours(
    rows: list[Made], period: list[int], tenant_id: int | None, taken_out: int
) -> None:
    since, until = (BASE + moment for moment in period)
    with ledger_with(rows) as (conn, records):
        for record in records[:taken_out]:
            add_row(conn, record, -1)
            conn.execute("DELETE FROM requests WHERE id = ?", (record.id,))
        found = Percentiles(conn, since, until, tenant_id=tenant_id)
        if found.is_exact:
            return
        own = [row for row in ended_in(records[taken_out:], since, until) if tenant_id in (None, row.tenant_id)]
        for metric in (DURATION, FIRST_TOKEN):
            for tenant in (None, 1, 2, 3):
                values = [getattr(row, f"{metric}_micros") for row in own if tenant in (None, row.tenant_id)]
                counts = Counter(bucket_of(micros) for micros in values if micros is not None)
                for percent in (1, 50, 99, 100):
                    assert found.of(tenant, metric, percent) == percentile(counts, percent)


def test_only_whole_days_are_read_as_days_and_only_the_other_hours_as_hours() -> None:
    day = 24 * HOUR
    row = Made("acme", None, "tiny", "", False, "stop", "", Usage(), HOUR, 1, None)  # type: ignore[arg-type, call-arg]
    ends = (day - 1, day, 2 * day - 1, 2 * day)
    with ledger_with([row._replace(ended=ended) for ended in ends]) as (conn, _):
        conn.execute(
            "UPDATE latencies SET bucket = 100 WHERE hour_micros >= ? AND hour_micros < ?", (BASE + day, BASE + 2 * day)
        )
        conn.execute("UPDATE latency_days SET bucket = 200 WHERE day_micros <> ?", (BASE + day,))
        whole = Percentiles(conn, BASE + day - HOUR, BASE + 2 * day + HOUR)
        assert {whole.of(1, DURATION, percent) for percent in range(1, 101)} == {value_of(0)}
        assert Percentiles(conn, BASE + day, BASE + 2 * day - HOUR).of(1, DURATION, 99) == value_of(100)
        assert Percentiles(conn, BASE, BASE + day).of(1, DURATION, 99) == value_of(200)


def test_what_was_taken_out_again_is_in_no_report() -> None:
    row = Made("acme", None, "tiny", "", False, "stop", "", None, HOUR, 0, None)  # type: ignore[arg-type]
    with ledger_with([row]) as (conn, [record]):
        assert len(usage_by(conn, Grouping.MODEL, BASE, BASE + 3 * HOUR, ZoneInfo("UTC"))) == 1
        add_row(conn, record, -1)
        conn.execute("DELETE FROM requests")
        assert usage_by(conn, Grouping.MODEL, BASE, BASE + 3 * HOUR, ZoneInfo("UTC")) == []


def test_too_many_hours_are_refused_but_not_those_without_requests() -> None:
    row = Made("acme", None, "tiny", "", False, "stop", "", None, HOUR, 0, None)  # type: ignore[arg-type]
    with ledger_with([row, row._replace(ended=HOUR + 1)]) as (conn, _):
        assert len(usage_by(conn, Grouping.HOUR, 0, BASE * 2, ZoneInfo("UTC"))) == 1
    with ledger_with([row, row._replace(ended=101 * 24 * HOUR + HOUR)]) as (conn, _):
        with pytest.raises(InvalidRequest, match="at most 100 days"):
            usage_by(conn, Grouping.HOUR, 0, BASE * 2, ZoneInfo("UTC"))
        assert len(usage_by(conn, Grouping.DAY, 0, BASE * 2, ZoneInfo("UTC"))) == 2


def test_hours_that_are_not_those_of_utc_are_for_a_month_at_most() -> None:
    row = Made("acme", None, "tiny", "", False, "stop", "", None, HOUR, 0, None)  # type: ignore[arg-type]
    with ledger_with([row, row._replace(ended=40 * 24 * HOUR)]) as (conn, _):
        assert len(usage_by(conn, Grouping.HOUR, 0, BASE * 2, ZoneInfo("Europe/Berlin"))) == 2
        with pytest.raises(InvalidRequest, match="at most 32 days in Asia/Kolkata, whose hours are not those of UTC"):
            usage_by(conn, Grouping.HOUR, 0, BASE * 2, ZoneInfo("Asia/Kolkata"))
        assert len(usage_by(conn, Grouping.HOUR, BASE, BASE + 31 * 24 * HOUR, ZoneInfo("Asia/Kolkata"))) == 1


@examples(200)
@given(
    zone=st.sampled_from(sorted(available_timezones())).map(ZoneInfo),
    since=st.integers(0, 4_000_000_000_000_000),
    length=st.integers(0, 40 * HOUR),
)
def test_days_and_hours_follow_each_other_without_gap_or_overlap(zone: ZoneInfo, since: int, length: int) -> None:
    for spans in (list(days(since, since + length, zone)), list(hours(since, since + length, zone))):
        assert [span.since_micros for span in spans] == [since, *(span.until_micros for span in spans)][: len(spans)]
        assert sum(span.until_micros - span.since_micros for span in spans) == length
        assert len({span.name for span in spans}) == len(spans)
    for span in hours(since, since + length, zone):
        for moment in (span.since_micros, span.until_micros - 1):
            clock = local(moment, zone).isoformat()
            assert span.name[:13] == clock[:13] and clock.endswith(span.name[16:])


def test_the_hour_that_clocks_show_twice_is_two_and_a_skipped_one_is_none() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    autumn = [span.name for span in hours(BASE + 23 * HOUR, BASE + 27 * HOUR, berlin)]
    assert autumn == [
        "2025-10-26T01:00+02:00",
        "2025-10-26T02:00+02:00",
        "2025-10-26T02:00+01:00",
        "2025-10-26T03:00+01:00",
    ]
    since = 1_743_861_600_000_000  # 01:00 by the clocks, which go back by half an hour at 02:00
    howe = [span.name for span in hours(since, since + 5 * HOUR // 2, ZoneInfo("Australia/Lord_Howe"))]
    assert howe == ["2025-04-06T01:00+11:00", "2025-04-06T01:00+10:30", "2025-04-06T02:00+10:30"]
