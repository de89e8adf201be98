"""Numbers as people read them. Money is integers until it is text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

NANOS: Final = 1_000_000_000
NOTHING: Final = "-"
"""An empty cell: a column is then never missing for awk and its like."""


def decimals(amounts_nanos: Iterable[int]) -> int:
    """Decimal places that show all these amounts exactly: 2 to 9."""
    return max((_decimals(nanos) for nanos in amounts_nanos), default=2)


def _decimals(nanos: int) -> int:
    return max(2, len(f"{abs(nanos) % NANOS:09d}".rstrip("0")))


def money(nanos: int, places: int | None = None) -> str:
    """An amount, exactly: 123000 is 0.000123. `places` aligns a column; it never cuts digits off."""
    places = max(places or 0, _decimals(nanos))
    sign = "-" if nanos < 0 else ""
    return f"{sign}{abs(nanos) // NANOS}.{abs(nanos) % NANOS:09d}"[
        : len(sign) + len(str(abs(nanos) // NANOS)) + 1 + places
    ]


def milliseconds(micros: float | None) -> str:
    """12.3 ms, without the unit."""
    return NOTHING if micros is None else f"{micros / 1000:.1f}"


def seconds(micros: float | None) -> str:
    """1.234 s, without the unit."""
    return NOTHING if micros is None else f"{micros / 1_000_000:.3f}"


def moment(micros: int | None) -> str:
    """A time in this machine's timezone, to the second."""
    if not micros:
        return NOTHING
    return datetime.fromtimestamp(micros // 1_000_000).strftime("%Y-%m-%d %H:%M:%S")


def duration(total_s: float) -> str:
    """How long something has been going on: 42 s, 3 min, 5 h, 2 d."""
    for unit_s, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if total_s >= 2 * unit_s:
            return f"{int(total_s // unit_s)} {name}"
    return f"{int(total_s)} s"


def size(total_bytes: int) -> str:
    """In MiB or GiB."""
    return f"{total_bytes / 2**30:.2f} GiB" if total_bytes >= 2**30 else f"{total_bytes / 2**20:.0f} MiB"
