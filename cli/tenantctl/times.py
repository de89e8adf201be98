"""Times as people type them: a date, a date and time, or how long ago or from now."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final

import typer

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_DATE: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_IN_BILLING_ZONE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?)?")
MOST_YEARS: Final = 100
"""How far away an end may be, as the daemon has it."""
_TIME: Final = re.compile(r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?")
_DAYS_AGO: Final = {"today": 0, "yesterday": 1}
WHEN: Final = (
    "2026-11-29, '2026-11-29 14:30' or 14:30 (local time), 2026-11-29T14:30Z, today, yesterday, or 2h for two hours ago"
)
LASTING: Final = "a duration such as 90d, 12h or 30m"


def moment_of(text: str, option: str | None = None) -> int:
    """Microseconds since 1970 of `text`, which is the value of `option`. Raises BadParameter."""
    if _DURATION.fullmatch(text):
        ago_micros = duration_s(text) * 1_000_000
        return max(0, int(datetime.now().timestamp() * 1_000_000) - ago_micros)
    if (date_micros := _date_micros(_dated(text))) is not None:
        return date_micros
    raise typer.BadParameter(f"must be a time such as {WHEN} (got {text[:40]!r})", param_hint=option)


def time_range(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """The times of two options, as microseconds since 1970. Raises BadParameter if the range is empty."""
    since_micros = None if since is None else moment_of(since, "--since")
    until_micros = None if until is None else moment_of(until, "--until")
    if since_micros is not None and until_micros is not None and until_micros <= since_micros:
        raise typer.BadParameter("the range ends before it begins; --since must be the earlier", param_hint="--until")
    return since_micros, until_micros


def end_fields(text: str) -> dict[str, int]:
    """When something ends, as the API takes it: after a duration, or when a day or a moment begins.

    Raises BadParameter.
    """
    now_micros = datetime.now().timestamp() * 1_000_000
    if _DURATION.fullmatch(text):
        if not (lasting_s := duration_s(text)):
            raise _wrong_end("must be longer than 0")
        _check_far(now_micros + lasting_s * 1_000_000, now_micros)
        return {"expires_in_s": lasting_s}
    if (date_micros := _date_micros(text)) is not None:
        if date_micros <= now_micros:
            raise _wrong_end(f"{text} has passed")
        _check_far(date_micros, now_micros)
        return {"expires_micros": date_micros}
    raise _wrong_end(f"must be {LASTING}, or a date such as 2027-01-31 or 2027-01-31T18:00 (got {text[:40]!r})")


def _check_far(end_micros: float, now_micros: float) -> None:
    if end_micros - now_micros > MOST_YEARS * 365 * 86_400 * 1_000_000:
        raise _wrong_end(f"must be within {MOST_YEARS} years; leave it out for a key that does not expire")


def _wrong_end(reason: str) -> typer.BadParameter:
    return typer.BadParameter(reason, param_hint="--expires")


def duration_s(text: str, option: str | None = None) -> int:
    """Seconds in a duration such as 90d, 12h or 30m. 0 needs no unit. Raises BadParameter."""
    if text == "0":
        return 0
    if (found := _DURATION.fullmatch(text)) is None:
        raise typer.BadParameter(f"must be {LASTING} (got {text[:40]!r})", param_hint=option)
    return int(found[1]) * _UNITS_S[found[2]]


def _dated(text: str) -> str:
    """The date of `today` or `yesterday`, or with a time of today; otherwise the text."""
    if _TIME.fullmatch(text):
        return f"{date.today().isoformat()} {text}"
    days = _DAYS_AGO.get(text)
    return text if days is None else (date.today() - timedelta(days=days)).isoformat()


def _date_micros(text: str) -> int | None:
    """Microseconds since 1970 when a day or a moment begins; None if `text` is neither."""
    if _DATE.fullmatch(text):
        try:
            return max(0, round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1_000_000))
        except (ValueError, OverflowError):  # the 31st of February
            pass
    return None


def bound(text: str | None, option: str | None = None) -> str | None:
    """One end of a period, as the API takes it: microseconds since 1970, or a date, also with a time, in the billing
    time zone. `option` is named if it is wrong. Raises BadParameter."""
    if text is not None and _TIME.fullmatch(text):
        raise typer.BadParameter("a time needs a date here, such as '2026-11-29 14:30'", param_hint=option)
    if text is None or text in _DAYS_AGO or _IN_BILLING_ZONE.fullmatch(text):
        if text is not None and len(text) > len("2026-11-29"):
            moment_of(text, option)  # refuses the 31st of February
        return text
    return str(moment_of(text, option))


def checked_window(text: str | None) -> str | None:
    """A duration, as the API takes it. Raises BadParameter."""
    if text is not None and not duration_s(text):
        raise typer.BadParameter("must be longer than 0")
    return text


def _option(name: str, what: str) -> Any:
    return typer.Option(name, metavar="TIME", help=f"{what}: a date, a time, or both, or 2h for two hours ago.")


Since = Annotated[str | None, _option("--since", "From this time on")]
Until = Annotated[str | None, _option("--until", "Before this time")]

_BOUND: Final = "a date, or a date and time, in the billing time zone, or 2h for two hours ago."
PeriodSince = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help=f"Count requests that ended since: {_BOUND}")
]
PeriodUntil = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help=f"Count requests that ended before: {_BOUND}")
]
Window = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar="DURATION",
        callback=checked_window,
        help="Count requests that ended in the last 90s, 1h or 7d.",
    ),
]
