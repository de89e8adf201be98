"""How long passes take, as measured: a straight line through their sizes and times. Pure."""

from __future__ import annotations

from typing import Final

KEPT: Final = 0.95
"""Weight of what was learned before, at each new pass. So about the latest twenty count."""
FIRMNESS: Final = 0.1
"""How strongly the line is held to its first guess, as a spread of sizes relative to their mean. Sizes that differ by
less teach the height of the line, but not its slope."""
MOST_SURPRISE: Final = 4
"""A pass counts as at most this many times as long as expected."""


class Line:
    """The time of a pass in microseconds as a + b × its size, a and b ≥ 0.

    Until sizes differ, time is taken to be proportional to size, or with `is_flat` the same for every size.
    """

    def __init__(self, *, is_flat: bool = False) -> None:
        self._is_flat = is_flat
        self._weight = 0.0
        self._size = self._micros = 0.0  # weighted means
        self._spread = self._product = 0.0  # weighted means of the squared deviation of sizes, and of both deviations

    def learn(self, size: int, micros: int) -> None:
        """A pass of this size took this long. One that took much longer than expected counts for less: it was
        interrupted, or others are about to tell the same."""
        if self.is_known:
            micros = min(micros, int(MOST_SURPRISE * self.micros(size)) + 1)
        self._weight = KEPT * self._weight + 1
        part = 1 / self._weight
        off_size, off_micros = size - self._size, micros - self._micros
        self._size += part * off_size
        self._micros += part * off_micros
        self._spread += part * ((1 - part) * off_size * off_size - self._spread)
        self._product += part * ((1 - part) * off_size * off_micros - self._product)

    @property
    def is_known(self) -> bool:
        return self._weight > 0

    def micros(self, size: float) -> float:
        """How long a pass of this size takes; 0 if nothing is known."""
        return max(0.0, self._micros + self._slope() * (size - self._size))

    def size(self, micros: float) -> float:
        """The largest size that takes no longer than this; infinite if size does not matter, or nothing is known."""
        slope = self._slope()
        if slope <= 0:
            return float("inf") if micros >= self._micros else 0.0
        return max(0.0, self._size + (micros - self._micros) / slope)

    def typical(self, micros: float) -> float:
        """The size that takes this long at the average speed so far, as if no pass had a fixed cost; 0 if unknown."""
        return micros * self._size / self._micros if self._micros > 0 else 0.0

    def _slope(self) -> float:
        """Least squares, held to the first guess."""
        if not self._size:
            return 0.0
        steepest = self._micros / self._size  # through 0
        guess = 0.0 if self._is_flat else steepest
        hold = (FIRMNESS * self._size) ** 2
        return min(steepest, max(0.0, (self._product + hold * guess) / (self._spread + hold)))
