"""Months: where they begin, in any timezone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.errors import InvalidRequest
from tenantd.ledger.invoices import Month, parse_month
from tenantd.periods import EPOCH

HOUR_MICROS = 3_600_000_000
zones = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def local(instant_micros: int, zone: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(microseconds=instant_micros)).astimezone(zone)


def month(text: str, zone: str, now: datetime | None = None) -> Month:
    return parse_month(text, ZoneInfo(zone), micros(now or datetime(2026, 11, 23, 12, tzinfo=UTC)))


def test_a_month_begins_at_local_midnight_and_is_as_long_as_its_clocks_say() -> None:
    march = month("2026-03", "Europe/Berlin")
    assert march.since_micros == micros(datetime(2026, 2, 28, 23, tzinfo=UTC))
    assert march.until_micros == micros(datetime(2026, 3, 31, 22, tzinfo=UTC))
    assert march.until_micros - march.since_micros == (31 * 24 - 1) * HOUR_MICROS
    october = month("2026-10", "Europe/Berlin")
    assert october.until_micros - october.since_micros == (31 * 24 + 1) * HOUR_MICROS
    assert (march.name, march.timezone, march.is_over) == ("2026-03", "Europe/Berlin", True)


def test_a_midnight_that_clocks_skip_or_show_twice_is_the_first_instant_of_the_month() -> None:
    # On 1 October 1993 Asia/Amman went back from 01:00 to 00:00: midnight came twice.
    twice = month("1993-10", "Asia/Amman")
    assert local(twice.since_micros, ZoneInfo("Asia/Amman")).strftime("%d %H:%M") == "01 00:00"
    assert local(twice.since_micros - 1, ZoneInfo("Asia/Amman")).strftime("%d %H:%M") == "30 23:59"
    # On 1 April 1985 Asia/Amman went forward from 00:00 to 01:00: there was none.
    skipped = month("1985-04", "Asia/Amman")
    assert local(skipped.since_micros, ZoneInfo("Asia/Amman")).strftime("%d %H:%M") == "01 01:00"
    assert local(skipped.since_micros - 1, ZoneInfo("Asia/Amman")).strftime("%d %H:%M") == "31 23:59"


def test_this_and_last_are_said_in_the_billing_timezone() -> None:
    new_year = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert month("this", "UTC", new_year).name == "2026-12"
    assert month("this", "Europe/Berlin", new_year).name == "2027-01"
    assert month("last", "Europe/Berlin", new_year).name == "2026-12"
    assert month("last", "UTC", datetime(2026, 1, 1, tzinfo=UTC)).name == "2025-12"
    assert not month("this", "UTC", new_year).is_over
    assert month("2026-12", "Europe/Berlin", new_year).is_over


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "2026-1", "202-11", "2026-11 ", "٢٠٢٦-11", "next", "9999-12", "0001-01"]
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        month(text, "UTC")
    assert refused.value.param == "month"


@given(zone=zones, year=st.integers(1900, 2100), number=st.integers(1, 12))
def test_months_follow_each_other_without_gap_or_overlap(zone: ZoneInfo, year: int, number: int) -> None:
    this = parse_month(f"{year}-{number:02}", zone, 0)
    following = parse_month(f"{year + number // 12}-{number % 12 + 1:02}", zone, 0)
    assert this.until_micros == following.since_micros
    assert 27 * 24 * HOUR_MICROS < this.until_micros - this.since_micros < 33 * 24 * HOUR_MICROS


@given(zone=zones, instant_micros=st.integers(0, micros(datetime(2100, 1, 1, tzinfo=UTC))))
def test_every_instant_is_in_the_month_that_the_calendar_shows(zone: ZoneInfo, instant_micros: int) -> None:
    shown = local(instant_micros, zone)
    this = parse_month("this", zone, instant_micros)
    assert this == parse_month(f"{shown:%Y-%m}", zone, instant_micros)
    offsets = {local(instant_micros + hours * HOUR_MICROS, zone).utcoffset() for hours in (-3, 0, 3)}
    if (
        len(offsets) == 1
    ):  # where clocks show a midnight twice, the calendar goes back a month for a while; bills do not
        assert this.since_micros <= instant_micros < this.until_micros
