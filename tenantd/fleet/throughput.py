"""How fast requests have been finishing, the basis of every `retry-after` and estimated wait. Pure; the clock is an
argument.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

REMEMBERED: Final = 64
LEAST_S: Final = 1
MOST_S: Final = 60


class Throughput:
    """When the last requests ended, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._ends_s: deque[float] = deque(maxlen=REMEMBERED)

    def ended(self, now_s: float) -> None:
        """Record the end of a request."""
        self._ends_s.append(now_s)

    def forget(self) -> None:
        """Nothing is running, so the time until the next request does not count."""
        self._ends_s.clear()

    @property
    def is_known(self) -> bool:
        """Whether enough have ended to tell a rate."""
        return len(self._ends_s) >= 2

    def wait_s(self, now_s: float, sharers: int, oldest_s: float) -> int:
        """Whole seconds until a place should be free, with `sharers` tenants waiting for one.

        See `places_s` for `oldest_s`.
        """
        return min(MOST_S, max(LEAST_S, math.ceil(self.places_s(now_s, max(1, sharers), oldest_s))))

    def places_s(self, now_s: float, places: int, oldest_s: float) -> float:
        """Seconds until this many places should have become free.

        Uses the rate of the last ends, including the time since the last one. If fewer than two have ended, assumes
        that each place takes as long as the oldest live request so far (`oldest_s` seconds).
        """
        if not self.is_known:
            return oldest_s
        return (now_s - self._ends_s[0]) / len(self._ends_s) * places
