"""The wall clock."""

from __future__ import annotations

import time


def now_micros() -> int:
    """Microseconds since 1970; 0 if the clock is earlier than that, because it is not set yet."""
    return max(0, time.time_ns() // 1000)
