"""Query parameters of the administration routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from tenantd import clock
from tenantd.config import BillingConfig
from tenantd.domain import FinishReason
from tenantd.errors import InvalidRequest
from tenantd.ledger.grouped import MOST_HOURS, Grouping
from tenantd.ledger.invoices import parse_month
from tenantd.periods import HOUR_MICROS, local_date, midnight_micros
from tenantd.text.excerpt import excerpt

MOST_DIGITS: Final = 18
LIVE_STATES: Final = ("waiting", "running", "paused")
STATES: Final = (*LIVE_STATES, *(reason.value for reason in FinishReason))
"""What requests are chosen by: where live ones are, and how the others ended."""
_DAYS_AGO: Final = {"today": 0, "yesterday": 1}
_WINDOW: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?)?")


def whole_number(name: str, text: str) -> int:
    """A parameter that must be a whole number. Raises InvalidRequest."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        raise InvalidRequest(f"{name}: must be a whole number, not {text[:40]!r}", param=name)
    return int(text)


def one_of(name: str, text: str, choices: Iterable[str]) -> str:
    """A parameter that must be one of some words. Raises InvalidRequest."""
    if text not in (words := tuple(choices)):
        raise InvalidRequest(f"{name}: must be one of {', '.join(words)} (got {excerpt(text, 40)})", param=name)
    return text


def window_micros(text: str) -> int:
    """How long a window is: 90s, 30m, 24h, 7d or 2w. Raises InvalidRequest."""
    found = _WINDOW.fullmatch(text)
    if found is None or not int(found[1]):
        raise InvalidRequest(
            f"window: must be a duration such as 90d, 12h or 30m (got {excerpt(text, 40)})", param="window"
        )
    return int(found[1]) * _UNIT_S[found[2]] * 1_000_000


def moment_micros(name: str, text: str, timezone: ZoneInfo) -> int:
    """Microseconds since 1970, or when a date, today or yesterday begins, or a date and time are, in a time zone.

    Raises InvalidRequest.
    """
    if (days := _DAYS_AGO.get(text)) is not None:
        return midnight_micros(local_date(clock.now_micros(), timezone) - timedelta(days=days), timezone)
    if not _DATE.fullmatch(text):
        return whole_number(name, text)
    try:
        if len(text) == len("2026-11-29"):
            return max(0, midnight_micros(date.fromisoformat(text), timezone))
        return max(0, round(datetime.fromisoformat(text).replace(tzinfo=timezone).timestamp() * 1_000_000))
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name}: {text} does not exist", param=name) from None


def period_of(
    billing: BillingConfig, month: str | None, since: str | None, until: str | None, *, window: str | None = None
) -> tuple[int, int]:
    """The period of a month, or from `since` until just before `until` (default: now); by default this month.

    Raises InvalidRequest, also if a `window` is given too.
    """
    timezone, now_micros = ZoneInfo(billing.timezone), clock.now_micros()
    if window is not None:
        raise InvalidRequest("use one of window, month and since/until", param="window")
    if since is None and until is None:
        parsed = parse_month(month or "this", timezone, now_micros)
        return parsed.since_micros, parsed.until_micros
    if month is not None:
        raise InvalidRequest("use either month or since/until, not both", param="month")
    until_micros = now_micros if until is None else moment_micros("until", until, timezone)
    since_micros = 0 if since is None else moment_micros("since", since, timezone)
    if until is not None and since_micros > until_micros:
        raise InvalidRequest("since: must be before until", param="since")
    return since_micros, until_micros


def created_between(billing: BillingConfig, since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """When requests were created: from the first moment until before the second; None for any time.

    Raises InvalidRequest.
    """
    timezone = ZoneInfo(billing.timezone)
    since_micros = None if since is None else moment_micros("since", since, timezone)
    until_micros = None if until is None else moment_micros("until", until, timezone)
    if since_micros is not None and until_micros is not None and since_micros > until_micros:
        raise InvalidRequest("since: must be before until", param="since")
    return since_micros, until_micros


def check_hours(grouping: Grouping, since_micros: int, until_micros: int) -> None:
    """Raises InvalidRequest if a report by hour covers too many."""
    if grouping is Grouping.HOUR and until_micros - since_micros > MOST_HOURS * HOUR_MICROS:
        raise InvalidRequest(
            f"a report by hour covers at most {MOST_HOURS // 24} days; choose a shorter period", param="since"
        )
