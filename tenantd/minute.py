"""A sliding minute: what was counted in it, and when there is room for more. Pure, in integers; the clock is an
argument.

Both processes use it: the daemon counts requests and tokens before it admits a request, the engine counts tokens before
it computes them. The clock is monotonic. If it goes backwards anyway, time stands still here until it catches up; if it
jumps ahead, that much time has passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

WINDOW_MICROS: Final = 60_000_000
GRAIN_MICROS: Final = 100_000
"""Grain of the daemon's windows: a window holds at most 601 numbers."""
FINE_GRAIN_MICROS: Final = 1_000
"""Grain of the engine's windows: shorter than a step, so that slowed-down streams advance evenly."""

COPY_GRAIN_MICROS: Final = 500_000
"""Grain of copies that predict what will happen."""


class SlidingWindow:
    """How much was counted in the last minute.

    Amounts booked within one grain of time are added up, and count until the last of them is a minute old. So if every
    booking waits until `wait_micros` is 0, no 60 seconds exceed the limit, wherever they begin. No wait is longer than
    a minute either: clients give up when they are told to wait longer.
    """

    def __init__(self, grain_micros: int = GRAIN_MICROS) -> None:
        self._grain_micros = grain_micros
        self._grains: deque[list[int]] = deque()  # [when it expires, amount], oldest first
        self._sum = 0
        self._now_micros = 0  # time since the first reading
        self._clock_micros: int | None = None

    def book(self, amount: int, now_micros: int) -> None:
        """Count `amount` from now on."""
        self._pass_time(now_micros)
        if not amount:
            return
        ends_micros = self._now_micros + WINDOW_MICROS
        if self._grains and self._grain(self._grains[-1][0]) == self._grain(ends_micros):
            self._grains[-1] = [ends_micros, self._grains[-1][1] + amount]
        else:
            self._grains.append([ends_micros, amount])
        self._sum += amount

    def used(self, now_micros: int) -> int:
        """The amount that counts now."""
        self._pass_time(now_micros)
        return self._sum

    def wait_micros(self, amount: int, limit: int, now_micros: int) -> int:
        """How long until `amount` more fits the limit, if nothing else is booked meanwhile; 0 if it fits now."""
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
        """The amounts that count now: (microseconds until they expire, amount), soonest first."""
        self._pass_time(now_micros)
        return [(ends_micros - self._now_micros, amount) for ends_micros, amount in self._grains]

    def recall(self, counting: Iterable[tuple[int, int]], now_micros: int) -> None:
        """Take over amounts from another window's `counting`, before anything is booked here."""
        self._pass_time(now_micros)
        for left_micros, amount in counting:
            if amount and left_micros > 0:
                ends_micros = self._now_micros + left_micros
                assert not self._grains or self._grains[-1][0] <= ends_micros, "the oldest first"
                self._grains.append([ends_micros, amount])
                self._sum += amount

    def _grain(self, ends_micros: int) -> int:
        """The grain in which something was booked that counts until then."""
        return (ends_micros - WINDOW_MICROS) // self._grain_micros

    def _pass_time(self, now_micros: int) -> None:
        if self._clock_micros is not None:
            self._now_micros += max(0, now_micros - self._clock_micros)
        self._clock_micros = now_micros
        while self._grains and self._grains[0][0] <= self._now_micros:
            self._sum -= self._grains.popleft()[1]


class TokenWindow:
    """The tokens that the engine gave a tenant, on the engine's clock in seconds.

    `limit_tokens` None means no limit; it may change at any time. Tokens are counted without a limit too, so that a
    limit set later includes the last minute.
    """

    def __init__(self, limit_tokens: int | None = None) -> None:
        self.limit_tokens = limit_tokens
        self._window = SlidingWindow(FINE_GRAIN_MICROS)

    def allowance(self, now_s: float) -> int | None:
        """How many tokens may be given now; None if there is no limit."""
        if self.limit_tokens is None:
            return None
        return max(0, self.limit_tokens - self._window.used(_micros(now_s)))

    def give(self, tokens: int, now_s: float) -> None:
        """Count tokens given."""
        self._window.book(tokens, _micros(now_s))

    def recall(self, counting: Iterable[tuple[int, int]], now_s: float) -> None:
        """Count tokens given before this window existed. See `SlidingWindow.recall`."""
        self._window.recall(counting, _micros(now_s))

    def copy(self, now_s: float) -> TokenWindow:
        """Another one with the same tokens, to try things on; about the same, so that it is small."""
        other = TokenWindow(self.limit_tokens)
        if self.limit_tokens is not None:
            merged: dict[int, int] = {}
            for left_micros, amount in self._window.counting(_micros(now_s)):
                at_micros = (left_micros // COPY_GRAIN_MICROS + 1) * COPY_GRAIN_MICROS
                merged[at_micros] = merged.get(at_micros, 0) + amount
            other._window = SlidingWindow(COPY_GRAIN_MICROS)
            other.recall(merged.items(), now_s)
        return other

    def next_s(self, now_s: float, tokens: int = 1) -> float | None:
        """When so many tokens may be given again; None if they may now, or never (a lower limit)."""
        allowance = self.allowance(now_s)
        if self.limit_tokens is None or tokens > self.limit_tokens or allowance is None or allowance >= tokens:
            return None
        return now_s + self._window.wait_micros(tokens, self.limit_tokens, _micros(now_s)) / 1e6


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)
