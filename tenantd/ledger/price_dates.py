"""When a price list begins, as people write it: now, a date, or a date and time in the billing time zone."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from tenantd.errors import InvalidRequest
from tenantd.ledger.invoices import NEWEST_YEAR
from tenantd.periods import EPOCH, midnight_micros

NOW: Final = "now"
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?")
MOST_SHOWN: Final = 40


def begin_micros(text: str, timezone: ZoneInfo, now_micros: int) -> int | None:
    """Microseconds since 1970 when a date or moment begins; None for "now".

    A time that clocks show twice is the first. Raises InvalidRequest for the past, and for what is no time.
    """
    if text == NOW:
        return None
    try:
        begun = _parsed(text, timezone)
    except (ValueError, OverflowError):  # the 31st of February
        begun = None
    if begun is None:
        raise _refused(f"must be now, a date such as 2026-12-01, or 2026-12-01T18:00 (got {text[:MOST_SHOWN]!r})")
    year, micros = begun
    if year > NEWEST_YEAR:
        raise _refused(f"must be before the year {NEWEST_YEAR + 1} (got {text[:MOST_SHOWN]!r})")
    if micros < now_micros:
        raise _refused(
            f"{text} ({timezone}) has passed, and prices of the past are never changed. Use now or a later date; to "
            "correct what was invoiced, write a credit note: tenantctl invoice credit"
        )
    return micros


def _parsed(text: str, timezone: ZoneInfo) -> tuple[int, int] | None:
    """Year and moment; None for what is no time. Raises ValueError, OverflowError, InvalidRequest."""
    if _DATE.fullmatch(text):
        day = date.fromisoformat(text)
        if not 1 < day.year < 9999:  # next to the ends of the calendar, no time zone can be applied
            return day.year, 0
        return day.year, midnight_micros(day, timezone)
    if not _TIME.fullmatch(text):
        return None
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if not 1 < moment.year < 9999:
        return moment.year, 0
    if moment.tzinfo is None:
        local = moment.replace(tzinfo=timezone)
        if local.astimezone(UTC).astimezone(timezone).replace(tzinfo=None) != moment:
            raise _refused(f"{text} does not exist in {timezone}, because clocks skip it")
        moment = local
    return moment.year, (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"from: {reason}", param="from")
