"""Times as people type them: a date, a date and time, or how long ago."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final

import typer

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_AGO: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_DATE: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
WHEN: Final = "2026-11-29, '2026-11-29 14:30' (local time), 2026-11-29T14:30Z, or 30m, 2h, 7d ago"


def moment_of(text: str) -> int:
    """Microseconds since 1970 of `text`. Raises BadParameter."""
    if found := _AGO.fullmatch(text):
        ago_micros = int(found[1]) * _UNITS_S[found[2]] * 1_000_000
        return max(0, int(datetime.now().timestamp() * 1_000_000) - ago_micros)
    if _DATE.fullmatch(text):
        try:
            return max(0, round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1_000_000))
        except (ValueError, OverflowError):  # the 31st of February
            pass
    raise typer.BadParameter(f"must be a time such as {WHEN} (got {text[:40]!r})")


def _option(name: str, what: str) -> Any:
    return typer.Option(name, metavar="TIME", help=f"{what}: a date, a date and time, or 30m, 2h, 7d ago.")


Since = Annotated[str | None, _option("--since", "From this time on")]
Until = Annotated[str | None, _option("--until", "Before this time")]
