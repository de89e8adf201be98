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
    """The ends of those keys that have one. Immutable, so that a thread can make the `next` ones."""

    def __init__(
        self,
        now_micros: Callable[[], int],
        clock_s: Callable[[], float],
        expires_micros: Mapping[str, int] | None = None,
        before: Mapping[str, _End] | None = None,
    ) -> None:
        """`now_micros` is the wall clock, `clock_s` a monotonic one. `expires_micros` by key id."""
        self._now_micros = now_micros
        self._clock_s = clock_s
        self._ends: dict[str, _End] = {}
        known, now = before or {}, _End(now_micros(), clock_s())
        for key_id, at_micros in (expires_micros or {}).items():
            end = known.get(key_id)
            if end is None or end.at_micros != at_micros:
                end = _End(at_micros, now.at_s + (at_micros - now.at_micros) / 1e6)
            self._ends[key_id] = end
        self._sorted_micros = sorted(end.at_micros for end in self._ends.values())
        self._sorted_s = sorted(end.at_s for end in self._ends.values())

    def next(self, expires_micros: Mapping[str, int]) -> KeyEnds:
        """With these ends, by key id, instead. One that is still the same keeps its time by the monotonic clock."""
        return KeyEnds(self._now_micros, self._clock_s, expires_micros, self._ends)

    def has_come(self, key_id: str) -> bool:
        """Whether this key has ended. One without an end never has."""
        end = self._ends.get(key_id)
        return end is not None and (self._now_micros() >= end.at_micros or self._clock_s() >= end.at_s)

    def count(self) -> tuple[int, int]:
        """How many ends have come by either clock. Takes the same time for any number of keys."""
        return bisect_right(self._sorted_micros, self._now_micros()), bisect_right(self._sorted_s, self._clock_s())
