"""How long passes take, as measured: a straight line through their sizes and times; and what that means for requests
that are paused. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

KEPT: Final = 0.95
"""Weight of what was learned before, at each new pass. So about the latest twenty count."""
FIRMNESS: Final = 0.1
"""How strongly the line is held to its first guess, as a spread of sizes relative to their mean. Sizes that differ by
less teach the height of the line, but not its slope."""
MOST_SURPRISE: Final = 4
"""A pass counts as at most this many times as long as expected."""
CLEARLY: Final = 2
"""A state is not kept if computing its tokens again is this many times as fast. Less is not worth it: nobody pays for
computing again, and what follows may differ in the last bits."""
TRIED: Final = 32
"""One in so many states that are not worth keeping is kept all the same, to measure again."""


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


class Keeping:
    """Whether the state of a paused request is worth keeping, by its tokens, or should be computed again."""

    def __init__(self, prompt_s: Callable[[int], float]) -> None:
        """`prompt_s` tells how long it takes to compute this many tokens; 0 if that is unknown."""
        self._prompt_s = prompt_s
        self._saves, self._restores = Line(), Line()
        self._refused = 0  # one after the other

    def saved(self, tokens: int, micros: int) -> None:
        """A state of so many tokens was copied to host memory."""
        self._saves.learn(tokens, micros)

    def restored(self, tokens: int, micros: int) -> None:
        """And back."""
        self._restores.learn(tokens, micros)

    def is_worth(self, tokens: int) -> bool:
        """Whether it is, as far as was measured."""
        computed_micros = 1e6 * self._prompt_s(tokens)
        if not (computed_micros and self._saves.is_known and self._restores.is_known):
            return True
        return self._saves.micros(tokens) + self._restores.micros(tokens) <= CLEARLY * computed_micros

    def decide(self, tokens: int) -> bool:
        """The same for a state that is there now; now and then one is kept to measure again."""
        self._refused = 0 if self.is_worth(tokens) else (self._refused + 1) % TRIED
        return not self._refused
