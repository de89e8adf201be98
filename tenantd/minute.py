"""What was booked in the last minute, and when there is room for more. Pure, in integers; the clock is an argument.

Both processes count this way: the daemon requests and tokens before it admits one, the engine tokens before it computes
them. The clock is a monotonic one. If it goes backwards all the same, time stands still here until it goes on; if it
jumps ahead, that much time has passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

WINDOW_MICROS: Final = 60_000_000
GRAIN_MICROS: Final = 100_000
"""The daemon's grain: a window is at most 601 numbers."""
FINE_GRAIN_MICROS: Final = 1_000
"""The engine's: shorter than a step, so a stream that is slowed down goes on evenly."""


class SlidingWindow:
    """How much was booked in the last minute.

    What is booked within one grain of time is one number, and counts until all of the grain is a minute old. So if
    every booking waits for `wait_micros` to be 0, no 60 seconds hold more than the limit, wherever they begin.
    """

    def __init__(self, grain_micros: int = GRAIN_MICROS) -> None:
        self._grain_micros = grain_micros
        self._grains: deque[list[int]] = deque()  # [the moment it no longer counts, amount], oldest first
        self._sum = 0
        self._now_micros = 0  # time that has passed here since the first reading
        self._clock_micros: int | None = None

    def book(self, amount: int, now_micros: int) -> None:
        """Count it from now on."""
        self._pass_time(now_micros)
        ends_micros = (self._now_micros // self._grain_micros + 1) * self._grain_micros + WINDOW_MICROS
        if self._grains and self._grains[-1][0] == ends_micros:
            self._grains[-1][1] += amount
        elif amount:
            self._grains.append([ends_micros, amount])
        self._sum += amount

    def used(self, now_micros: int) -> int:
        """What counts now."""
        self._pass_time(now_micros)
        return self._sum

    def wait_micros(self, amount: int, limit: int, now_micros: int) -> int:
        """How long until `amount` more is within `limit`, if nothing else is booked meanwhile; 0: it is now."""
        assert amount <= limit, "what is over the limit by itself never fits"
        counting = self.used(now_micros) + amount
        if counting <= limit:
            return 0
        for ends_micros, booked in self._grains:
            counting -= booked
            if counting <= limit:
                return ends_micros - self._now_micros
        raise AssertionError("when nothing counts any more, there is room")

    def reset_micros(self, now_micros: int) -> int:
        """How long until nothing counts any more."""
        self._pass_time(now_micros)
        return self._grains[-1][0] - self._now_micros if self._grains else 0

    def counting(self, now_micros: int) -> list[tuple[int, int]]:
        """What counts now: (microseconds until it no longer does, amount), in that order."""
        self._pass_time(now_micros)
        return [(ends_micros - self._now_micros, amount) for ends_micros, amount in self._grains]

    def recall(self, counting: Iterable[tuple[int, int]], now_micros: int) -> None:
        """Count what counts elsewhere, as `counting` tells it, before anything is booked here."""
        self._pass_time(now_micros)
        for left_micros, amount in counting:
            if amount and left_micros > 0:
                ends_micros = self._now_micros + left_micros
                assert not self._grains or self._grains[-1][0] <= ends_micros, "the oldest first"
                self._grains.append([ends_micros, amount])
                self._sum += amount

    def _pass_time(self, now_micros: int) -> None:
        if self._clock_micros is not None:
            self._now_micros += max(0, now_micros - self._clock_micros)
        self._clock_micros = now_micros
        while self._grains and self._grains[0][0] <= self._now_micros:
            self._sum -= self._grains.popleft()[1]


class TokenWindow:
    """The tokens that the engine gave a tenant, on the engine's clock in seconds.

    `limit_tokens` None means no limit; it may change at any time. Tokens count without one, too, so that a limit set
    later counts the minute before it.
    """

    def __init__(self, limit_tokens: int | None = None) -> None:
        self.limit_tokens = limit_tokens
        self._window = SlidingWindow(FINE_GRAIN_MICROS)

    def allowance(self, now_s: float) -> int | None:
        """Tokens that may be given now; None when there is no limit."""
        if self.limit_tokens is None:
            return None
        return max(0, self.limit_tokens - self._window.used(_micros(now_s)))

    def give(self, tokens: int, now_s: float) -> None:
        """Book what was given."""
        self._window.book(tokens, _micros(now_s))

    def recall(self, counting: Iterable[tuple[int, int]], now_s: float) -> None:
        """Count what was given before this window began. See `SlidingWindow.recall`."""
        self._window.recall(counting, _micros(now_s))

    def next_s(self, now_s: float) -> float | None:
        """When there will be an allowance again: None if there is one, or will never be (a limit of 0)."""
        if not self.limit_tokens or self.allowance(now_s) != 0:
            return None
        return now_s + self._window.wait_micros(1, self.limit_tokens, _micros(now_s)) / 1e6


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)
