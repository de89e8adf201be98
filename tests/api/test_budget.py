"""Memory for bodies: bounded for all, fair between owners, and always given back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tenantd.api.budget import ALWAYS_BYTES, MOST_WAITING, BodyBudget, Lease
from tenantd.config import ServerConfig
from tenantd.errors import BodyMemoryFull, TooManyBodyBytes

MB = 1 << 20
TOTAL_MB = 64


def run(scene: Callable[[BodyBudget], Coroutine[Any, Any, None]]) -> None:
    """In a budget of 64 MiB for bodies of at most 32."""
    settings = ServerConfig(body_bytes_total=TOTAL_MB * MB, max_body_bytes=32 * MB)

    async def main() -> None:
        await scene(BodyBudget(lambda: settings))

    asyncio.run(asyncio.wait_for(main(), 30))


async def lease_of(budget: BodyBudget, owner: str, megabytes: int, timeout_s: float = 0.05) -> Lease:
    lease = budget.lease(owner, lambda: None)
    await lease.grow(megabytes * MB, timeout_s)
    return lease


def test_one_owner_gets_half_and_waits_for_its_own_beyond_that() -> None:
    async def scene(budget: BodyBudget) -> None:
        first = await lease_of(budget, "a", 20)
        with pytest.raises(TooManyBodyBytes) as refused:
            await lease_of(budget, "a", 20)
        assert refused.value.http_status == 429 and refused.value.retry_after_s
        waiting = asyncio.create_task(lease_of(budget, "a", 20, timeout_s=10))
        await asyncio.sleep(0)
        assert not waiting.done() and budget.held_bytes == 20 * MB
        first.give_back()
        (await waiting).give_back()
        assert budget.held_bytes == 0

    run(scene)


def test_the_owner_with_the_most_makes_room_for_one_with_less() -> None:
    async def scene(budget: BodyBudget) -> None:
        old, new = await lease_of(budget, "a", 16), await lease_of(budget, "a", 16)
        others = await lease_of(budget, "b", 30)
        small = await lease_of(budget, "c", 5)
        assert isinstance(new.refusal, BodyMemoryFull) and new.refusal.retry_after_s
        assert old.refusal is others.refusal is small.refusal is None
        assert budget.held_bytes == (16 + 30 + 5) * MB

    run(scene)


def test_a_body_that_is_worked_on_is_waited_for_and_not_refused() -> None:
    async def scene(budget: BodyBudget) -> None:
        busy = [await lease_of(budget, "a", 32), await lease_of(budget, "b", 32)]
        for lease in busy:
            lease.complete()
        assert (await lease_of(budget, "c", 1)).refusal is None, f"{ALWAYS_BYTES} are everybody's"
        waiting = asyncio.create_task(lease_of(budget, "d", 8, timeout_s=10))
        await asyncio.sleep(0)
        assert not waiting.done()
        busy[0].give_back()
        assert (await waiting).refusal is busy[1].refusal is None

    run(scene)


def test_those_who_wait_are_few_and_leave_nothing_when_they_go() -> None:
    async def scene(budget: BodyBudget) -> None:
        held = await lease_of(budget, "a", 32)
        waiting = [asyncio.create_task(lease_of(budget, "a", 4, timeout_s=10)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyBodyBytes):
            await lease_of(budget, "a", 4, timeout_s=10)
        for task in waiting:
            task.cancel()
        held.give_back()  # grants what is being cancelled
        await asyncio.gather(*waiting, return_exceptions=True)
        for task in waiting:
            if not task.cancelled():
                task.result().give_back()
        assert budget.held_bytes == 0 and not budget._accounts

    run(scene)


def test_an_owner_within_its_equal_part_is_never_refused_for_what_others_do() -> None:
    """Random owners that always want more; one of them never has more than an equal part."""

    async def scene(budget: BodyBudget) -> None:
        rng = random.Random(6)
        greedy = [f"g{number}" for number in range(7)]
        leases: list[Lease] = []
        for _ in range(2000):
            with_more = rng.random() < 0.6
            if with_more:
                with contextlib.suppress(TooManyBodyBytes):
                    leases.append(await lease_of(budget, rng.choice(greedy), rng.randint(1, 32), timeout_s=0))
            elif leases:
                leases.pop(rng.randrange(len(leases))).give_back()
            modest = await lease_of(budget, "modest", TOTAL_MB // 8, timeout_s=0)
            assert modest.refusal is None
            assert budget.held_bytes <= TOTAL_MB * MB
            modest.give_back()
            leases = [lease for lease in leases if lease.refusal is None]
        for lease in leases:
            lease.give_back()
        assert budget.held_bytes == 0 and not budget._accounts

    run(scene)


def test_only_one_body_is_widened_at_a_time_and_one_that_gives_up_frees_the_way() -> None:
    async def scene(budget: BodyBudget) -> None:
        first, second, third = [await lease_of(budget, owner, 8) for owner in "abc"]
        await first.have_widened(1)
        with pytest.raises(TooManyBodyBytes):
            await second.have_widened(0.01)
        waiting = asyncio.create_task(third.have_widened(10))
        await asyncio.sleep(0)
        assert not waiting.done()
        first.give_back()
        first.give_back()
        await waiting
        third.give_back()
        await second.have_widened(1)

    run(scene)
