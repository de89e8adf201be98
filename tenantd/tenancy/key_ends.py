"""When keys end: at a time of the wall clock, and no later than that time was away when it was read.

The wall clock may be set. Forward, it ends a key by its date. Back, it prolongs nothing: by the monotonic clock the key
still ends when it would have. So an end has come as soon as either clock says so. The monotonic clock stands still
while the machine sleeps, and knows nothing of the time before this run; then the wall clock alone decides.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import NamedTuple


class _End(NamedTuple):
    at_micros: int  # wall clock
    at_s: float  # monotonic clock


class KeyEnds:
    """The ends of those keys that have one."""

    def __init__(self, now_micros: Callable[[], int], clock_s: Callable[[], float]) -> None:
        """`now_micros` is the wall clock, `clock_s` a monotonic one."""
        self._now_micros = now_micros
        self._clock_s = clock_s
        self._ends: dict[str, _End] = {}
        self._sorted_micros: list[int] = []
        self._sorted_s: list[float] = []

    def replace(self, expires_micros: Mapping[str, int]) -> None:
        """Take these ends, by key id, instead of those until now. One that is still the same keeps its time by the
        monotonic clock."""
        now_micros, now_s = self._now_micros(), self._clock_s()
        before, self._ends = self._ends, {}
        for key_id, at_micros in expires_micros.items():
            known = before.get(key_id)
            if known is None or known.at_micros != at_micros:
                known = _End(at_micros, now_s + (at_micros - now_micros) / 1e6)
            self._ends[key_id] = known
        self._sorted_micros = sorted(end.at_micros for end in self._ends.values())
        self._sorted_s = sorted(end.at_s for end in self._ends.values())

    def has_come(self, key_id: str) -> bool:
        """Whether this key has ended. One without an end never has."""
        end = self._ends.get(key_id)
        return end is not None and (self._now_micros() >= end.at_micros or self._clock_s() >= end.at_s)

    def count(self) -> tuple[int, int]:
        """How many ends have come by either clock. Takes the same time for any number of keys."""
        return bisect_right(self._sorted_micros, self._now_micros()), bisect_right(self._sorted_s, self._clock_s())
