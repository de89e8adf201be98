"""Budgets of money next to a free quota: what is free holds nothing back, and nothing passes a budget."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantd.domain import BudgetUnit
from tenantd.periods import Period
from tenantd.tenancy.free_quotas import Drawn, Tokens
from tenantd.tenancy.price_book import Rates
from tests.tenancy.budget_world import DAY_MICROS, KEY, PRICES, BudgetWorld

OPERATIONS = ("start", "start", "generate", "generate", "generate", "settle", "reload")
LATER = ("midnight", "crash")


def acts(world: BudgetWorld, rng: random.Random, operations: tuple[str, ...]) -> None:
    operation = rng.choice(operations)
    if operation == "start":
        world.start(rng.randrange(1, 200), rng.randrange(1, 400), rng.choice((None, KEY)), rng.choice((1, 1, 3)))
    elif operation == "generate" and world.running:
        world.generate(rng.choice(world.running), rng.randrange(100))
    elif operation == "settle" and world.running:
        world.settle(rng.choice(world.running), reloads=rng.random() < 0.3)
    elif operation == "reload":
        world.reload()
    elif operation == "midnight" and rng.random() < 0.3:
        world.wait(rng.randrange(20 * DAY_MICROS))
    elif operation == "crash" and rng.random() < 0.2:
        world.crash()


amounts = st.integers(0, 4_000_000) | st.sampled_from([0, 1, 3250])
quotas = st.integers(0, 3_000)


@given(st.integers(0, 2**32), amounts, amounts | st.none(), quotas, quotas)
@settings(max_examples=40, deadline=None)
def test_nothing_is_generated_that_a_budget_does_not_pay_for_or_a_quota_give(
    seed: int, nanos: int, key_nanos: int | None, free_prompt: int, free_output: int
) -> None:
    rng, world = random.Random(seed), BudgetWorld(free_prompt=free_prompt, free_output=free_output)
    world.set_budget(BudgetUnit.MONEY, nanos, Period.MONTHLY)
    world.set_budget(BudgetUnit.MONEY, nanos // 2, Period.DAILY)
    if key_nanos is not None:
        world.set_budget(BudgetUnit.MONEY, key_nanos, key_id=KEY)
    for _ in range(rng.randrange(200)):
        acts(world, rng, OPERATIONS)
        world.check()
    for one in list(world.running):
        world.settle(one)
    world.check()
    assert world.waived_nanos == 0
    world.budgets.idle_check()


@given(st.integers(0, 2**32), amounts, quotas, quotas)
@settings(max_examples=20, deadline=None)
def test_no_budget_is_passed_across_months_and_crashes(
    seed: int, nanos: int, free_prompt: int, free_output: int
) -> None:
    rng, world = random.Random(seed), BudgetWorld(free_prompt=free_prompt, free_output=free_output)
    world.set_budget(BudgetUnit.MONEY, nanos, Period.WEEKLY)
    for _ in range(rng.randrange(200)):
        acts(world, rng, (*OPERATIONS, *LATER))
        world.check()
    for one in list(world.running):
        world.settle(one)
    world.check()
    world.budgets.idle_check()


@given(st.integers(0, 2**32), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_who_uses_only_what_is_free_is_never_held_back(seed: int, nanos: int) -> None:
    rng, world = random.Random(seed), BudgetWorld(free_prompt=5_000, free_output=5_000)
    world.set_budget(BudgetUnit.MONEY, nanos)
    left_prompt = left_output = 5_000  # of the quota, if all that was sent runs to its end
    while True:
        prompt, most = rng.randrange(1, 200), rng.randrange(1, 400)
        if prompt > left_prompt or most > left_output:
            break
        assert world.start(prompt, most)
        left_prompt, left_output = left_prompt - prompt, left_output - most
        while world.running and rng.random() < 0.7:
            one = rng.choice(world.running)
            world.generate(one, rng.randrange(1, 200))
            assert one.allowed > one.generated or one.generated == one.draw.max_tokens
            if one.generated == one.draw.max_tokens or rng.random() < 0.1:
                left_output += one.draw.max_tokens - one.generated
                world.settle(one)
        world.check()
    for one in list(world.running):
        while one.generated < one.draw.max_tokens:
            before = one.generated
            world.generate(one, 1)
            assert one.generated > before
        world.settle(one)
    assert world.used() == [(0, nanos)]


@pytest.mark.parametrize("nanos", [0, 100_000_000])
@pytest.mark.parametrize("streams", [1, 8, 128])
def test_nearly_all_of_a_quota_and_of_the_budget_beside_it_can_be_used(nanos: int, streams: int) -> None:
    world = BudgetWorld(free_prompt=1_000_000, free_output=50_000)
    world.set_budget(BudgetUnit.MONEY, nanos)
    world.use_up(streams)
    [(used, cap)] = world.used()
    assert 0.995 * nanos <= used <= cap == nanos
    assert world.given()[1] >= 0.995 * 50_000 and world.waived_nanos == 0


def test_a_key_with_a_budget_of_its_own_holds_its_tokens_at_the_list_price() -> None:
    world = BudgetWorld(free_prompt=1_000, free_output=1_000)
    world.set_budget(BudgetUnit.MONEY, 0)
    world.set_budget(BudgetUnit.MONEY, 1_000, key_id=KEY)
    assert world.start(100, 100)
    assert not world.start(100, 100, KEY), "others may use up the quota first"


def test_cached_prompts_are_not_free_so_their_price_is_held() -> None:
    lists = [msgspec.structs.replace(PRICES, cached_nanos_per_million=500_000_000, free_prompt_tokens=1_000)]
    rates = Rates(lists)
    assert rates.together(Drawn(2, Tokens(400, 0)), rates.quota) == 400 * 500 + 2
    assert rates.together(Drawn(2, Tokens(2_000, 0)), rates.quota) == 1_000 * 1_500 + 2
