"""Query parameters of the administration routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from typing import Final
from zoneinfo import ZoneInfo

from tenantd import clock
from tenantd.config import BillingConfig
from tenantd.errors import InvalidRequest
from tenantd.ledger.invoices import parse_month
from tenantd.periods import midnight_micros
from tenantd.text.excerpt import excerpt

MOST_DIGITS: Final = 18
_WINDOW: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


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
        raise InvalidRequest(f"window: must be like 90s, 30m, 24h or 7d (got {excerpt(text, 40)})", param="window")
    return int(found[1]) * _UNIT_S[found[2]] * 1_000_000


def moment_micros(name: str, text: str, timezone: ZoneInfo) -> int:
    """Microseconds since 1970, or when a date begins in a time zone. Raises InvalidRequest."""
    if not _DATE.fullmatch(text):
        return whole_number(name, text)
    try:
        return max(0, midnight_micros(date.fromisoformat(text), timezone))
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name}: there is no {text}", param=name) from None


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
    return (0 if since is None else moment_micros("since", since, timezone)), until_micros
