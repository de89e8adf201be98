"""Formats numbers for people. Money stays an integer until it is printed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

NANOS: Final = 1_000_000_000
NOTHING: Final = "-"
"""An empty cell; never blank, so that awk and similar tools see every column."""


def decimals(amounts_nanos: Iterable[int]) -> int:
    """Decimal places needed to show all these amounts exactly: 2 to 9."""
    return max((_decimals(nanos) for nanos in amounts_nanos), default=2)


def _decimals(nanos: int) -> int:
    return max(2, len(f"{abs(nanos) % NANOS:09d}".rstrip("0")))


def money(nanos: int, places: int | None = None) -> str:
    """The exact amount: 123000 is 0.000123. `places` pads to align a column and never drops digits."""
    places = max(places or 0, _decimals(nanos))
    sign = "-" if nanos < 0 else ""
    return f"{sign}{abs(nanos) // NANOS}.{abs(nanos) % NANOS:09d}"[
        : len(sign) + len(str(abs(nanos) // NANOS)) + 1 + places
    ]


def milliseconds(micros: float | None) -> str:
    """Milliseconds with one decimal, without the unit: 12.3."""
    return NOTHING if micros is None else f"{micros / 1000:.1f}"


def seconds(micros: float | None) -> str:
    """Seconds with three decimals, without the unit: 1.234."""
    return NOTHING if micros is None else f"{micros / 1_000_000:.3f}"


def moment(micros: int | None) -> str:
    """A time in the local time zone, to the second; `micros` itself if no calendar has it."""
    if not micros:
        return NOTHING
    try:
        return datetime.fromtimestamp(micros // 1_000_000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # year 10000 or later
        return str(micros)


def moment_in(micros: int, timezone: str) -> str:
    """A time in a time zone: only the date if it is midnight; `micros` itself if no calendar has it."""
    try:
        local = datetime.fromtimestamp(micros / 1_000_000, ZoneInfo(timezone))
    except (ValueError, OverflowError, OSError):
        return str(micros)
    return f"{local:%Y-%m-%d}" if (local.hour, local.minute, local.second) == (0, 0, 0) else f"{local:%Y-%m-%d %H:%M}"


def period_in(since_micros: int, until_micros: int, timezone: str) -> str:
    """A period in a time zone: "2026-11-01 00:00 to 2026-12-01 00:00 UTC"; with seconds if it has any."""
    try:
        ends = [
            datetime.fromtimestamp(micros / 1_000_000, ZoneInfo(timezone)) for micros in (since_micros, until_micros)
        ]
    except (ValueError, OverflowError, OSError):
        return f"{since_micros} to {until_micros}"
    form = "%Y-%m-%d %H:%M" + (":%S" if any(end.second for end in ends) else "")
    return f"{' to '.join(end.strftime(form) for end in ends)} {timezone}"


def duration(total_s: float) -> str:
    """A rough duration: 42 s, 3 min, 5 h, 2 d."""
    for unit_s, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if total_s >= 2 * unit_s:
            return f"{int(total_s // unit_s)} {name}"
    return f"{int(total_s)} s"


def span(low_s: float, high_s: float) -> str:
    """A rough range of durations: 8-20 s, 40 s-3 min; one of them if they read alike."""
    low, high = duration(max(1.0, low_s)), duration(max(1.0, math.ceil(high_s)))
    if low == high:
        return high
    number, unit = low.split(" ")
    return f"{number}-{high}" if high.endswith(f" {unit}") else f"{low}-{high}"


def size(total_bytes: int) -> str:
    """In MiB or GiB."""
    return f"{total_bytes / 2**30:.2f} GiB" if total_bytes >= 2**30 else f"{total_bytes / 2**20:.0f} MiB"


def count(number: int) -> str:
    """A number in at most six characters: 12345, 123k, 1.23M, 45.6G."""
    if number < 100_000:
        return str(number)
    scaled, unit = float(number), ""
    for next_unit in "kMGTPE":
        if scaled < 999.5:
            break
        scaled, unit = scaled / 1000, next_unit
    return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"


def lasting(micros: float | None) -> str:
    """How long something took, in at most seven characters: 850µs, 12.3ms, 1.23s, 2m05s, 3h12m, 5d04h."""
    if micros is None:
        return NOTHING
    if micros < 999.5:
        return f"{micros:.0f}µs"
    if micros < 999_500:
        return f"{micros / 1e3:.{2 if micros < 9_995 else 1 if micros < 99_950 else 0}f}ms"
    if micros < 99_950_000:
        return f"{micros / 1e6:.{2 if micros < 9_995_000 else 1}f}s"
    whole_s = round(micros / 1e6)
    if whole_s < 3600:
        return f"{whole_s // 60}m{whole_s % 60:02}s"
    if whole_s < 100 * 3600:
        return f"{whole_s // 3600}h{whole_s % 3600 // 60:02}m"
    return f"{whole_s // 86_400}d{whole_s % 86_400 // 3600:02}h"


def energy(millijoules: int) -> str:
    """In joules, watt-hours or kilowatt-hours: 4.2 J, 612 J, 1.70 Wh, 23.4 kWh."""
    for millijoules_of, unit in ((3_600_000_000, "kWh"), (3_600_000, "Wh")):
        if (amount := millijoules / millijoules_of) >= 0.9995:
            return f"{amount:,.{2 if amount < 9.995 else 1 if amount < 99.95 else 0}f} {unit}"
    joules = millijoules / 1000
    return f"{joules:,.{1 if joules < 99.95 else 0}f} J"


def watt_hours(millijoules: int) -> str:
    """Watt-hours with three decimals, without the unit: 1.234."""
    return f"{millijoules / 3_600_000:.3f}"


def plural(number: int, noun: str) -> str:
    """1 request, 2 requests."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(fraction: float | None) -> str:
    """With one decimal: 12.3%."""
    return NOTHING if fraction is None else f"{fraction:.1%}"
