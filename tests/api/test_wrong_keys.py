"""Wrong keys cost time, in bounded memory, and nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from tenantd.api.wrong_keys import (
    FREE,
    LONGEST_PAUSE_S,
    MOST_ADDRESSES,
    MOST_COUNTED,
    MOST_HELD,
    REFILL_S,
    WrongKeys,
)
from tenantd.errors import TooManyWrongKeys


class Clock:
    """Goes only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_some_are_free_and_further_ones_take_longer_and_longer() -> None:
    wrong = WrongKeys(Clock())
    pauses = [wrong.count("192.0.2.1") for _ in range(FREE + 5)]
    assert pauses[:FREE] == [0.0] * FREE
    assert pauses[FREE:] == [0.5, 1.0, 2.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_an_address_pays_only_for_itself_and_is_forgiven() -> None:
    clock = Clock()
    wrong = WrongKeys(clock)
    for _ in range(10_000):
        wrong.count("192.0.2.1")
    assert wrong.count("192.0.2.2") == 0.0
    clock.now_s += REFILL_S * (MOST_COUNTED - FREE + 1)
    assert wrong.count("192.0.2.1") == 0.0
    assert wrong.count("192.0.2.1") == 0.5


def test_memory_is_bounded_and_who_was_quiet_longest_is_forgotten() -> None:
    wrong = WrongKeys(Clock())
    for _ in range(FREE + 1):
        wrong.count("192.0.2.1")
    for number in range(3 * MOST_ADDRESSES):
        if number % 1000 == 0:
            assert wrong.count("192.0.2.1") > 0.0
        wrong.count(str(number))
    assert len(wrong) == MOST_ADDRESSES


def test_only_some_answers_wait_and_further_ones_are_refused_at_once() -> None:
    async def check() -> None:
        wrong = WrongKeys(Clock())
        for _ in range(FREE):
            await wrong.hold_up("192.0.2.1")
        waiting = [asyncio.create_task(wrong.hold_up("192.0.2.1")) for _ in range(MOST_HELD)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyWrongKeys) as refused:
            await wrong.hold_up("192.0.2.1")
        assert refused.value.retry_after_s == (MOST_HELD + 1) * REFILL_S
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        again = asyncio.create_task(wrong.hold_up("192.0.2.1"))
        await asyncio.sleep(0)
        assert not again.done(), "those that have left wait no more"
        again.cancel()

    asyncio.run(check())
