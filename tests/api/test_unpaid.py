"""Requests that nobody pays for: a few at once, then a steady rate, in turns, in bounded memory."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any

from tenantd.api.unpaid import BURST, GAP_S, INTERVAL_S, MOST_ADDRESSES, Unpaid


class Timer:
    """As the loop's."""

    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """An event loop's clock, which goes only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, Timer, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when_s: float, call: Callable[[], None]) -> Timer:
        timer = Timer()
        heapq.heappush(self._timers, (when_s, next(self._numbers), timer, call))
        return timer

    def go_on(self, seconds: float) -> None:
        """Call what is due meanwhile."""
        until_s = self.now_s + seconds
        while self._timers and self._timers[0][0] <= until_s:
            when_s, _, timer, call = heapq.heappop(self._timers)
            self.now_s = max(self.now_s, when_s)
            if not timer.is_cancelled:
                call()
        self.now_s = until_s


class Crowd:
    """Requests of several addresses, each on a connection of its own. `begun`: those that had their turn, and when."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.unpaid = Unpaid(lambda: as_loop(self.loop))
        self.begun: list[tuple[str, float]] = []

    def ask(self, address: str, count: int = 1) -> list[Any]:
        connections: list[Any] = [object() for _ in range(count)]
        for connection in connections:
            self.unpaid.wait(address, connection, lambda: self.begun.append((address, self.loop.now_s - 1000)))
        return connections

    def count(self, address: str) -> int:
        return sum(begun == address for begun, _ in self.begun)


def as_loop(loop: Any) -> asyncio.AbstractEventLoop:
    found: asyncio.AbstractEventLoop = loop
    return found


def test_one_begins_at_once_and_a_few_soon_and_then_at_a_steady_rate() -> None:
    crowd = Crowd()
    crowd.ask("192.0.2.1", 500)
    assert crowd.begun == [("192.0.2.1", 0.0)]
    crowd.loop.go_on(BURST * GAP_S)
    assert BURST <= crowd.count("192.0.2.1") <= BURST + 1 + BURST * GAP_S / INTERVAL_S
    crowd.loop.go_on(4 - BURST * GAP_S)
    assert abs(crowd.count("192.0.2.1") - (BURST + 4 / INTERVAL_S)) <= 2


def test_no_two_begin_at_the_same_time() -> None:
    crowd = Crowd()
    for number in range(50):
        crowd.ask(f"192.0.2.{number}", 3)
    crowd.loop.go_on(60)
    times_s = [at_s for _, at_s in crowd.begun]
    assert len(times_s) == 150
    assert min(later - earlier for earlier, later in itertools.pairwise(times_s)) > GAP_S * 0.999


def test_who_asks_now_and_then_waits_for_one_turn_of_each_other() -> None:
    crowd = Crowd()
    for number in range(20):
        crowd.ask(f"192.0.2.{number}", 1000)
    crowd.loop.go_on(30)
    crowd.ask("198.51.100.1")
    crowd.loop.go_on(21 * GAP_S)
    assert crowd.count("198.51.100.1") == 1
    counts = [crowd.count(f"192.0.2.{number}") for number in range(20)]
    assert max(counts) - min(counts) <= 1


def test_an_address_that_was_quiet_has_a_burst_again() -> None:
    crowd = Crowd()
    crowd.ask("192.0.2.1", BURST + 10)
    crowd.loop.go_on(2 * BURST * INTERVAL_S)
    before = len(crowd.begun)
    crowd.ask("192.0.2.1", BURST)
    crowd.loop.go_on(BURST * GAP_S)
    assert len(crowd.begun) == before + BURST


def test_who_has_left_takes_no_turn() -> None:
    crowd = Crowd()
    for _ in range(100):
        for connection in crowd.ask("192.0.2.1", 100):
            crowd.unpaid.leave("192.0.2.1", connection)
            crowd.unpaid.leave("192.0.2.1", connection)
        assert not len(crowd.unpaid)
    begun = len(crowd.begun)
    assert begun == 1, "at the very first; the others waited"
    crowd.ask("192.0.2.1")
    crowd.loop.go_on(GAP_S)
    assert len(crowd.begun) == begun + 1


def test_memory_is_bounded() -> None:
    crowd = Crowd()
    for number in range(2 * MOST_ADDRESSES):
        crowd.ask(str(number))
        crowd.loop.go_on(GAP_S)
    crowd.loop.go_on(10)
    assert len(crowd.begun) == 2 * MOST_ADDRESSES
    assert crowd.unpaid.remembered == MOST_ADDRESSES
    assert not len(crowd.unpaid)
