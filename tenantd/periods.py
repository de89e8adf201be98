"""Days, weeks and months in a time zone. Pure.

Each is half-open and begins at local midnight, weeks on Monday. If clocks skip midnight, it begins when they do; if
midnight occurs twice, at the first.
"""

from __future__ import annotations

import functools
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_MICROS: Final = 3_600_000_000
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
    return (EPOCH + timedelta(microseconds=at_micros)).astimezone(timezone).date()


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
