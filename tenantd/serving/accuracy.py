"""How far predictions of waits have been off, which corrects the next ones and gives their ranges. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Final, NamedTuple

REMEMBERED: Final = 200
ENOUGH: Final = 30
"""Predictions for one tenant that turned out somehow, after which its own errors count, not everybody's."""
ALIKE: Final = 40
"""Errors that give a range: of the predictions that are nearest in length. Short waits are off by more of their length
than long ones, because a single answer may go on for longer than expected."""
FURTHEST: Final = 1.5
"""The logarithms of their lengths may differ by this: waits of seconds tell nothing of those of minutes."""
ABOUT: Final = 0.1
"""Lengths are about the same if their logarithms differ by no more than this."""
SMALL_S: Final = 0.5
"""Errors are relative to the wait and this much more, since nobody minds half a second."""
OUTSIDE: Final = 0.03
"""The part of past errors that are below a range, and again above it. Nine of ten waits should be inside; but requests
that wait at the same time are wrong together, and more of those fall outside than of past ones."""
MOST_ERROR: Final = 2.0
"""Worse ones count as this, which is seven times as long or short: a range that is wider tells nobody anything."""
CORRECTED: Final = 0.5
"""The part of the usual error that is corrected: it is of requests that have been waiting, and things change."""
ASSUMED: Final = (0.0, -0.1, 0.1, -0.2, 0.2, -0.3, 0.3, -0.4, 0.4, -0.5, 0.5, -0.6, 0.6, -0.7, 0.7, -0.8, 0.8)
"""Errors that are assumed until there are as many: the first ones are replaced first."""


class Wait(NamedTuple):
    """In seconds from now: the likely wait for a first token, and a range that nine of ten waits are in."""

    likely_s: float
    low_s: float
    high_s: float


class Accuracy:
    """The latest errors, as logarithms of how much longer it took than was predicted, by what was predicted."""

    def __init__(self) -> None:
        self._latest: deque[tuple[float, int, float]] = deque(maxlen=REMEMBERED)  # length, number, error
        self._sorted: list[tuple[float, int, float]] = []
        self._usual: dict[int, tuple[float, ...]] = {}  # of predictions of about the same length, until more is learned
        self.count = 0

    def learn(self, predicted_s: float, actual_s: float) -> None:
        """What was predicted to take this long took that long."""
        length = math.log(predicted_s + SMALL_S)
        error = math.log(actual_s + SMALL_S) - length
        one = (length, self.count, min(MOST_ERROR, max(-MOST_ERROR, error)))
        if len(self._latest) == REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._latest[0])]
        self._latest.append(one)
        insort(self._sorted, one)
        self._usual.clear()
        self.count += 1

    def corrected(self, predicted_s: float) -> Wait:
        """The prediction as it should have been, and its range."""
        about = round(math.log(predicted_s + SMALL_S) / ABOUT)
        if (usual := self._usual.get(about)) is None:
            usual = self._usual[about] = self._errors(about * ABOUT)
        likely, low, high = (max(0.0, (predicted_s + SMALL_S) * math.exp(error) - SMALL_S) for error in usual)
        return Wait(likely, min(likely, low), max(likely, high))

    def _errors(self, length: float) -> tuple[float, ...]:
        """What is corrected of predictions of about this length, and their range."""
        known = self._sorted
        least, most = (bisect_left(known, (length + far,)) for far in (-FURTHEST, FURTHEST))
        first = last = bisect_left(known, (length,))
        while last - first < min(ALIKE, most - least):
            if last == most or (first > least and length - known[first - 1][0] < known[last][0] - length):
                first -= 1
            else:
                last += 1
        errors = [error for *_, error in known[first:last]]
        errors = sorted([*ASSUMED[len(errors) :], *errors])
        return CORRECTED * _at(errors, 0.5), _at(errors, OUTSIDE), _at(errors, 1 - OUTSIDE)


class Accuracies:
    """Of everybody, and of each tenant: nobody's errors count for a tenant that has enough of its own."""

    def __init__(self) -> None:
        self._everybody = Accuracy()
        self._tenants: dict[str, Accuracy] = {}

    def of(self, tenant: str) -> Accuracy:
        """Of the predictions for a tenant."""
        own = self._tenants.get(tenant)
        return self._everybody if own is None or own.count < ENOUGH else own

    def learn(self, tenant: str, predicted_s: float, actual_s: float) -> None:
        """What was predicted for a tenant to take this long took that long."""
        self._everybody.learn(predicted_s, actual_s)
        self._tenants.setdefault(tenant, Accuracy()).learn(predicted_s, actual_s)

    def forget(self, tenant: str) -> None:
        """Forget a removed tenant."""
        self._tenants.pop(tenant, None)


def _at(errors: list[float], part: float) -> float:
    """What the next error should not exceed with this probability; the errors are sorted."""
    at = min(len(errors) - 1.0, max(0.0, part * (len(errors) + 1) - 1))
    low, high = errors[math.floor(at)], errors[math.ceil(at)]
    return low + (high - low) * (at % 1)
