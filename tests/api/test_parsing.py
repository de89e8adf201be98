"""The loop's turns of parsing: how long one is, who comes next, and when a connection is read again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from tenantd.api.parsing import SLICE_S, TURN_S, Flow, Turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Parsing:
    """Connections that need some slices each, and who was served in which turn of the loop."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.served: list[str] = []

    def needs(self, name: str, slices: int) -> Callable[[], bool]:
        left = iter(range(slices - 1, -1, -1))

        def parse() -> bool:
            self.served.append(name)
            self.clock.now_s += SLICE_S
            return next(left) > 0

        return parse


async def in_turns(parsing: Parsing) -> list[str]:
    """What was served in each turn of the loop, until nobody waits."""
    found: list[str] = []
    while True:
        parsing.served.clear()
        await asyncio.sleep(0)
        if not parsing.served:
            return found
        found.append("".join(parsing.served))


@pytest.mark.anyio
async def test_a_turn_ends_though_others_wait() -> None:
    parsing = Parsing()
    for name in "abcdef":
        parsing.turns.wait(name, parsing.needs(name, 2))
    per_turn = round(TURN_S / SLICE_S)
    served = await in_turns(parsing)
    assert "".join(served) == "abcdef" * 2
    assert {len(turn) for turn in served[:-1]} == {per_turn} and len(served[-1]) <= per_turn


@pytest.mark.anyio
async def test_an_owner_gains_nothing_by_more_connections() -> None:
    parsing = Parsing()
    for _ in range(10):
        parsing.turns.wait("many", parsing.needs("m", 2))
    parsing.turns.wait("one", parsing.needs("o", 3))
    assert "".join(await in_turns(parsing)) == "mo" * 3 + "m" * 17


@pytest.mark.anyio
async def test_one_that_fails_keeps_nobody_waiting() -> None:
    parsing = Parsing()
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def fail() -> bool:
        raise RuntimeError("of this one alone")

    parsing.turns.wait("a", fail)
    parsing.turns.wait("a", parsing.needs("a", 1))
    parsing.turns.wait("b", parsing.needs("b", 1))
    await asyncio.sleep(0)
    assert await in_turns(parsing) == ["ba"]
    assert [str(failure) for failure in failures] == ["of this one alone"]


@pytest.mark.anyio
async def test_one_that_comes_in_the_midst_of_a_turn_is_served() -> None:
    parsing = Parsing()

    def parse() -> bool:
        parsing.turns.wait("b", parsing.needs("b", 1))
        return False

    parsing.turns.wait("a", parse)
    assert await in_turns(parsing) == ["b"]


class Reading(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize("first", ["resume_reading", "release"])
def test_a_connection_is_read_again_once_neither_reason_is_left(first: str) -> None:
    transport = Reading()
    flow = Flow(transport)
    flow.hold()
    flow.pause_reading()
    assert not transport.reads
    second = {"resume_reading": flow.release, "release": flow.resume_reading}[first]
    cast(Callable[[], None], getattr(flow, first))()
    assert not transport.reads
    second()
    assert transport.reads
