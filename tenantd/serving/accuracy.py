"""How far predictions of waits have been off, which corrects the next ones and gives their ranges. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Final, NamedTuple

REMEMBERED: Final = 200
SMALL_S: Final = 2.0
"""Errors are relative to the wait and this much more: an answer that goes on a little longer than expected makes the
next request wait two seconds instead of none, and one that waits a minute hardly longer."""
OUTSIDE: Final = 0.05
"""The part of the errors that are below a range, and above it: nine of ten waits should be in it."""
MOST_ERROR: Final = 2.0
"""Worse ones count as this, which is seven times as long or short: a range that is wider tells nobody anything."""
CORRECTED: Final = 0.5
"""The part of the usual error that is corrected: it is of requests that have been waiting, and things change."""
ASSUMED: Final = tuple(n / 10 for n in range(-8, 9))
"""Errors that are assumed until there are enough."""


class Wait(NamedTuple):
    """In seconds from now: the likely wait for a first token, and a range that nine of ten waits are in."""

    likely_s: float
    low_s: float
    high_s: float


class Accuracy:
    """The latest errors, as logarithms of how much longer it took than was predicted."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(ASSUMED)
        self._sorted = list(ASSUMED)
        self.count = 0

    def learn(self, predicted_s: float, actual_s: float) -> None:
        """What was predicted to take this long took that long."""
        error = math.log((actual_s + SMALL_S) / (predicted_s + SMALL_S))
        error = min(MOST_ERROR, max(-MOST_ERROR, error))
        self._latest.append(error)
        insort(self._sorted, error)
        self.count += 1
        while len(self._latest) > (REMEMBERED if self.count > REMEMBERED else max(self.count, len(ASSUMED))):
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]

    def corrected(self, predicted_s: float) -> Wait:
        """The prediction as it should have been, and its range."""
        errors = (CORRECTED * self._error_at(0.5), self._error_at(OUTSIDE), self._error_at(1 - OUTSIDE))
        likely, low, high = (max(0.0, (predicted_s + SMALL_S) * math.exp(error) - SMALL_S) for error in errors)
        return Wait(likely, min(likely, low), max(likely, high))

    def _error_at(self, part: float) -> float:
        at = part * (len(self._sorted) - 1)
        low, high = self._sorted[math.floor(at)], self._sorted[math.ceil(at)]
        return low + (high - low) * (at % 1)
