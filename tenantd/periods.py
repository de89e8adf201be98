"""Days, weeks, months and hours in a time zone. Pure.

Each is half-open. Days, weeks (on Monday) and months begin at local midnight; if clocks skip midnight, when they do; if
midnight occurs twice, at the first. An hour that clocks show twice is two hours.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import timezone as fixed
from enum import StrEnum
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_MICROS: Final = 3_600_000_000
DAY_MICROS: Final = 24 * HOUR_MICROS
UTC_ZONE: Final = ZoneInfo("UTC")


class Period(StrEnum):
    """How long a period is."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class Bounds(NamedTuple):
    """From `since_micros` until just before `until_micros`, by the wall clock."""

    since_micros: int
    until_micros: int


def local_date(at_micros: int, timezone: ZoneInfo) -> date:
    """The date in the time zone at a moment (microseconds since 1970)."""
    return _local(at_micros, timezone).date()


def in_words(at_micros: int, timezone: ZoneInfo) -> str:
    """A moment for people, to the minute: "2026-12-01 00:00 UTC", "2026-12-01 00:00 Europe/Berlin"."""
    return f"{_local(at_micros, timezone):%Y-%m-%d %H:%M} {timezone}"


def bounds(period: Period, at_micros: int, timezone: ZoneInfo) -> Bounds:
    """The period that a moment is in. Raises OverflowError for moments beyond the calendar."""
    return _bounds(period, local_date(at_micros, timezone), timezone)


@functools.lru_cache(maxsize=256)
def _bounds(period: Period, day: date, timezone: ZoneInfo) -> Bounds:
    if period is Period.DAILY:
        first, last = day, day + timedelta(days=1)
    elif period is Period.WEEKLY:
        first = day - timedelta(days=day.weekday())
        last = first + timedelta(days=7)
    else:
        first = day.replace(day=1)
        last = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    return Bounds(midnight_micros(first, timezone), midnight_micros(last, timezone))


def midnight_micros(day: date, timezone: ZoneInfo) -> int:
    """When a day begins, in microseconds since 1970."""
    local = datetime(day.year, day.month, day.day, tzinfo=timezone)
    return (local.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


class Span(NamedTuple):
    """A day, "2026-11-29", or an hour, "2026-11-29T14:00+01:00"; the part of it that was asked for."""

    name: str
    since_micros: int
    until_micros: int


def days(since_micros: int, until_micros: int, timezone: ZoneInfo) -> Iterator[Span]:
    """The days from `since_micros` until just before `until_micros`. Raises OverflowError for moments beyond the
    calendar."""
    while since_micros < until_micros:
        day = local_date(since_micros, timezone)
        end_micros = midnight_micros(day + timedelta(days=1), timezone)
        if end_micros <= since_micros:  # clocks that went back at midnight show the day before once more
            day += timedelta(days=1)
            end_micros = midnight_micros(day + timedelta(days=1), timezone)
        yield Span(day.isoformat(), since_micros, min(end_micros, until_micros))
        since_micros = end_micros


def hours(since_micros: int, until_micros: int, timezone: ZoneInfo) -> Iterator[Span]:
    """The hours, as clocks show them, from `since_micros` until just before `until_micros`. Raises OverflowError."""
    while since_micros < until_micros:
        local = _local(since_micros, timezone)
        end_micros = since_micros + HOUR_MICROS - ((local.minute * 60 + local.second) * 1_000_000 + local.microsecond)
        if (offset := local.utcoffset()) != _local(end_micros - 1, timezone).utcoffset():
            end_micros = _changed_micros(since_micros, end_micros - 1, timezone)
        assert offset is not None, "a time zone has one at any time"
        begin = local.replace(minute=0, second=0, microsecond=0, tzinfo=fixed(offset))  # so that DST does not shift it
        yield Span(begin.isoformat(timespec="minutes"), since_micros, min(end_micros, until_micros))
        since_micros = end_micros


def _changed_micros(before_micros: int, after_micros: int, timezone: ZoneInfo) -> int:
    """When clocks changed between two moments: the first with the later offset."""
    offset = _local(before_micros, timezone).utcoffset()
    while after_micros - before_micros > 1:
        middle = (before_micros + after_micros) // 2
        if _local(middle, timezone).utcoffset() == offset:
            before_micros = middle
        else:
            after_micros = middle
    return after_micros


def _local(at_micros: int, timezone: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(microseconds=at_micros)).astimezone(timezone)
