"""The wall clock."""

from __future__ import annotations

import time


def now_micros() -> int:
    """Microseconds since 1970, and 0 on a machine that believes it is earlier: its clock is not set yet."""
    return max(0, time.time_ns() // 1000)
