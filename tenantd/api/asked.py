"""Periods and months as query parameters ask for them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from tenantd import clock
from tenantd.api.admin.parameters import whole_number
from tenantd.errors import InvalidRequest
from tenantd.ledger.invoices import Month, parse_month


def asked_month(text: str, timezone: str) -> Month:
    """A month that has begun: YYYY-MM, `this` or `last`. Raises InvalidRequest."""
    month, now_micros = parse_month(text, ZoneInfo(timezone), clock.now_micros()), clock.now_micros()
    if month.since_micros > now_micros:
        raise InvalidRequest(f"{month.name} has not started, so it has no invoice yet", param="month")
    return month


def asked_period(month: str | None, since: str | None, until: str | None, timezone: str) -> tuple[int, int]:
    """That of a month, by default this one; or from `since` until `until` (microseconds since 1970; default: now).

    Raises InvalidRequest.
    """
    now_micros = clock.now_micros()
    if since is None and until is None:
        parsed = parse_month(month or "this", ZoneInfo(timezone), now_micros)
        return parsed.since_micros, parsed.until_micros
    if month is not None:
        raise InvalidRequest("use either month or since/until, not both", param="month")
    until_micros = now_micros if until is None else whole_number("until", until)
    return (0 if since is None else whole_number("since", since)), until_micros
