"""Budgets hold under any interleaving: never over by one, everything is given back, and nearly all can be used."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import BudgetUnit
from tenantd.ledger.records import PriceList
from tenantd.ledger.spending import Use, mark_warned
from tenantd.periods import Period, bounds
from tenantd.tenancy.budget_accounts import Draw
from tenantd.tenancy.budgets import BLOCK_TOKENS, _read
from tenantd.tenancy.price_book import PriceBook
from tests.support.examples import examples
from tests.tenancy.budget_world import BERLIN, DAY_MICROS, KEY, PRICES, START_MICROS, TENANT, BudgetWorld

OPERATIONS = ("start", "start", "generate", "generate", "generate", "settle", "reload", "top_up", "midnight", "crash")


@given(
    st.integers(0, 2**32),
    st.integers(0, 3_000),
    st.integers(0, 8_000_000),
    st.none() | st.integers(0, 2_000),
)
@examples(60)
def test_budgets_are_never_passed_and_everything_is_given_back(
    seed: int, tokens: int, nanos: int, key_tokens: int | None
) -> None:
    rng, world = random.Random(seed), BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, tokens)
    world.set_budget(BudgetUnit.MONEY, nanos, Period.WEEKLY)
    if key_tokens is not None:
        world.set_budget(BudgetUnit.TOKENS, key_tokens, key_id=KEY)
    for _ in range(rng.randrange(200)):
        operation = rng.choice(OPERATIONS)
        if operation == "start":
            world.start(rng.randrange(1, 200), rng.randrange(1, 400), rng.choice((None, KEY)), rng.choice((1, 1, 3)))
        elif operation == "generate" and world.running:
            world.generate(rng.choice(world.running), rng.randrange(100))
        elif operation == "settle" and world.running:
            world.settle(rng.choice(world.running), reloads=rng.random() < 0.3)
        elif operation == "reload":
            world.reload()
        elif operation == "top_up" and rng.random() < 0.2:
            world.top_up(rng.randrange(1, 300))
        elif operation == "midnight" and rng.random() < 0.3:
            world.wait(rng.randrange(DAY_MICROS))
        elif operation == "crash" and rng.random() < 0.2:
            world.crash()
        world.check()
    for one in list(world.running):
        world.settle(one)
    world.check()
    world.budgets.idle_check()


@pytest.mark.parametrize("unit", [BudgetUnit.TOKENS, BudgetUnit.MONEY])
@pytest.mark.parametrize("streams", [1, 8, 128])
def test_nearly_all_of_a_budget_can_be_used(unit: BudgetUnit, streams: int) -> None:
    world, amount = BudgetWorld(), {BudgetUnit.TOKENS: 100_000, BudgetUnit.MONEY: 300_000_000}[unit]
    world.set_budget(unit, amount)
    world.use_up(streams)
    [(used, cap)] = world.used()
    assert used <= cap == amount
    assert used >= 0.995 * amount


def test_a_waiting_request_holds_its_prompt_and_a_block_and_blocks_shrink_with_the_rest() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 1_000)
    assert world.start(100, 500)
    [state] = world.budgets.states()
    assert state.reserved == 100 + BLOCK_TOKENS + 1
    blocks = []
    while world.start(10, 500):
        blocks.append(world.running[-1].allowed)
    assert blocks == sorted(blocks, reverse=True) and blocks[-1] <= 2
    [state] = world.budgets.states()
    assert state.left <= 10


def test_a_request_that_gets_the_last_of_a_budget_asks_for_more_and_is_told_that_there_is_none() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 10)
    [hold] = world.budgets.reserve(TENANT, KEY, [Draw(9, 25)], is_billed=True)
    assert (hold.allowed_tokens, hold.ask_at_tokens) == (1, 1)
    assert world.budgets.extend(hold, 1, 0) is False


def test_what_cannot_start_is_told_from_what_must_wait() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 100)
    shortage = world.budgets.shortage(TENANT, None, [Draw(100, 1)], is_billed=True)
    assert shortage is not None and shortage.is_final, "it is larger than the budget"
    assert world.start(60, 40)
    shortage = world.budgets.shortage(TENANT, None, [Draw(60, 1)], is_billed=True)
    assert shortage is not None and not shortage.is_final and shortage.needed == 61
    world.generate(world.running[0], 10)
    world.settle(world.running[0])
    shortage = world.budgets.shortage(TENANT, None, [Draw(30, 1)], is_billed=True)
    assert shortage is not None and shortage.is_final, "70 are used"
    assert world.start(29, 1)


def test_a_request_across_midnight_counts_in_the_new_period_alone() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 100)
    assert world.start(50, 50)
    world.generate(world.running[0], 20)
    world.now_micros += DAY_MICROS
    [state] = world.budgets.states()
    assert (state.used, state.reserved) == (0, 50 + world.running[0].allowed)
    world.generate(world.running[0], 50)
    world.settle(world.running[0])
    [state] = world.budgets.states()
    assert (state.used, state.reserved) == (100, 0)
    assert world.used() == [(100, 100)]


def test_a_clock_that_is_set_back_over_midnight_brings_back_what_was_used() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 100)
    for days, tokens in ((0, 90), (1, 80), (-1, 0), (1, 0)):
        world.now_micros += days * DAY_MICROS
        if tokens:
            assert world.start(tokens, 1)
            world.settle(world.running[0])
        assert not world.start(40, 1), "it is known"
        world.check()
    assert [state.used for state in world.budgets.states()] == [80]


def test_a_request_looks_only_at_budgets_of_its_own_key_and_of_all_keys() -> None:
    world = BudgetWorld()
    for key_id in ("", KEY, *(f"other_{n}" for n in range(20))):
        world.conn.execute(
            """INSERT INTO budgets (tenant_id, key_id, period, unit, amount, warn, set_micros)
            VALUES (?, ?, 'daily', 'tokens', 100, '', 0)""",
            (TENANT, key_id),
        )
    world.reload()
    before = {account.budget.key_id: account.since_micros for account in world.budgets._all()}
    world.now_micros += DAY_MICROS
    assert world.start(10, 5, KEY)
    moved = {a.budget.key_id for a in world.budgets._all() if a.since_micros != before[a.budget.key_id]}
    assert moved == {"", KEY}


def test_engine_time_counts_as_it_is_used_and_a_budget_is_over_when_nothing_is_left() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.ENGINE, 1_000)
    assert world.start(10, 100)
    [one] = world.running
    assert one.hold is not None and world.budgets.metered() == {one.hold}
    world.budgets.meter(one.hold, 999)
    assert not world.budgets.overdrawn()
    world.budgets.meter(one.hold, 1_000)
    assert [account.budget.unit for account in world.budgets.overdrawn()] == [BudgetUnit.ENGINE]
    assert not world.budgets.extend(one.hold, one.allowed, 1_000)
    shortage = world.budgets.shortage(TENANT, None, [Draw(1, 1)], is_billed=True)
    assert shortage is not None and shortage.is_final


def test_a_level_below_all_is_announced_where_the_rest_is_too_little_for_anything_and_once() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 1_000)
    assert world.budgets.used_up(1) is None, "nothing is used"
    assert world.start(500, 498)
    world.generate(world.running[0], 498)
    world.settle(world.running[0])
    use = world.budgets.used_up(1)
    assert use is not None and (use.used, use.level) == (998, 100)
    assert world.budgets.used_up(1) is None


@pytest.mark.parametrize("more", ["topped up", "set again"])
def test_that_a_budget_is_used_up_is_announced_again_when_it_was_given_more(more: str) -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 1_000)

    def use_up(tokens: int) -> list[Use]:
        assert world.start(tokens - 500, 500)
        world.generate(world.running[0], 500)
        uses = world.commit(one := world.running.pop())
        assert one.hold is not None
        world.budgets.release(one.hold, uses)
        return uses

    before = use_up(998)
    announced = world.budgets.used_up(1)
    assert announced is not None
    if more == "topped up":
        world.top_up(1_000)
    else:
        world.conn.execute("UPDATE budgets SET amount = 2000, set_micros = 1")
        world.conn.execute("UPDATE budget_uses SET warned = 0")
        world.reload()
    mark_warned(world.conn, announced, 100, world.timezone)  # the daemon comes to it only now
    world.reload()
    world.budgets.note([before[0]._replace(warned=100)])  # and hears only now of an earlier row
    assert world.budgets.used_up(1) is None, "half of it is used"
    use_up(1_000)
    use = world.budgets.used_up(1)
    assert use is not None and (use.used, use.level) == (1_998, 100)
    world.reload()
    assert world.budgets.used_up(1) is None, "once"


def test_money_is_held_at_the_dearest_list_that_may_apply() -> None:
    def prices(number: int, output_nanos: int, days: float, **more: int | None) -> PriceList:
        effective = START_MICROS + round(days * DAY_MICROS)
        return PriceList(
            id=number,
            currency="USD",
            input_nanos_per_million=0,
            output_nanos_per_million=output_nanos,
            engine_hour_nanos=0,
            effective_micros=effective,
            **more,
        )

    book = PriceBook([prices(1, 5, -2), prices(2, 7, 0.5), prices(3, 100, 3), prices(4, 2, -1, tenant_id=8)])
    million = 1_000_000
    assert book.rates(1, START_MICROS).nanos(0, million, 0) == 7, "it takes effect within a day"
    assert book.rates(8, START_MICROS).nanos(0, million, 0) == 2, "its own"
    back = PriceBook(
        [prices(1, 5, -2), prices(4, 2, -1, tenant_id=8), prices(5, 0, 0.2, tenant_id=8, follows_general=1)]
    )
    assert back.rates(8, START_MICROS).nanos(0, million, 0) == 5, "its own end soon"


@given(st.integers(0, 10**9), st.integers(0, 500), st.integers(0, 10**7))
def test_the_most_output_for_an_amount_is_exact(nanos: int, prompt_tokens: int, micros: int) -> None:
    rates = PriceBook([PRICES]).rates(TENANT, START_MICROS)
    most = rates.most_output(nanos, prompt_tokens, micros)
    if most < 0:
        assert rates.nanos(prompt_tokens, 0, micros) > nanos
    else:
        assert (
            rates.nanos(prompt_tokens, int(most), micros) <= nanos < rates.nanos(prompt_tokens, int(most) + 1, micros)
        )


def test_in_another_time_zone_another_period_has_begun_and_what_was_used_in_it_is_counted() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 100)
    assert world.start(10, 5)
    before = world.budgets.states()[0]
    world.timezone = ZoneInfo("Pacific/Auckland")
    world.settle(world.running[0])
    [state] = world.budgets.states()
    assert (state.used, state.reserved) == (before.reserved, 0), "not forgotten until the ledger is read"
    assert world.start(10, 5)
    snapshot = _read(world.conn, since_micros=0)
    assert world.budgets.uncounted(snapshot) == [], "its count began with the request"
    world.budgets.load(snapshot)
    [state] = world.budgets.states()
    assert state.since_micros != before.since_micros
    assert state.used == 10 < before.reserved == state.reserved
    world.timezone = BERLIN
    assert world.budgets.uncounted(snapshot) == [state.budget], "and nothing is counted in this one"
    world.set_budget(BudgetUnit.TOKENS, 100)
    world.commit(world.running[0])
    world.timezone = ZoneInfo("Pacific/Auckland")
    snapshot = _read(world.conn, since_micros=0)
    assert world.budgets.uncounted(snapshot) == [state.budget], "counted in part: the periods overlap"
    world.settle(world.running[0])
    world.budgets.idle_check()


def test_when_a_budget_is_removed_requests_may_generate_all_they_want() -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 100)
    assert world.start(10, 500)
    [one] = world.running
    world.conn.execute("DELETE FROM budgets")
    world.reload()
    assert one.hold is not None and not one.hold.accounts
    assert world.budgets.extend(one.hold, 1, 0) and one.allowed == 500
    world.settle(one)
    world.budgets.idle_check()


class Read:
    """A ledger after whose reading something happens before the daemon goes on."""

    def __init__(self, world: BudgetWorld, meanwhile: Callable[[], object]) -> None:
        self._world = world
        self._meanwhile = meanwhile

    async def read(self, work: Callable[[Any], Any], lane: object) -> Any:
        found = work(self._world.conn)
        self._meanwhile()
        return found

    async def write(self, work: Callable[[Any], Any]) -> Any:
        return work(self._world.conn)


def insert_budget(world: BudgetWorld, used: int | None) -> None:
    """Set one, of which this much is counted, without reading it."""
    world.conn.execute(
        """INSERT INTO budgets (tenant_id, period, unit, amount, warn, set_micros)
        VALUES (?, 'daily', 'tokens', 100, '', 0)""",
        (TENANT,),
    )
    if used is not None:
        since = bounds(Period.DAILY, world.now_micros, world.timezone).since_micros
        world.conn.execute("INSERT INTO budget_uses (budget_id, since_micros, used) VALUES (1, ?, ?)", (since, used))


def test_what_is_settled_while_a_new_budget_is_read_counts_in_it() -> None:
    world = BudgetWorld()
    assert world.start(10, 50)
    [one] = world.running
    world.generate(one, 30)
    insert_budget(world, 5)
    ledger: Any = Read(world, lambda: world.budgets.note(world.commit(one)))
    asyncio.run(world.budgets.reload(ledger))
    assert [state.used for state in world.budgets.states()] == [45]


def test_a_budget_that_is_removed_while_it_is_read_harms_nothing() -> None:
    world = BudgetWorld()
    insert_budget(world, None)
    ledger: Any = Read(world, lambda: world.conn.execute("DELETE FROM budgets"))
    asyncio.run(world.budgets.reload(ledger))
    assert world.conn.execute("SELECT * FROM budget_uses").fetchall() == []


def test_a_tenant_is_told_of_its_budgets_without_a_look_at_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = BudgetWorld()
    world.set_budget(BudgetUnit.TOKENS, 100)
    world.set_budget(BudgetUnit.TOKENS, 50, key_id=KEY)
    monkeypatch.setattr(world.budgets, "_all", lambda: pytest.fail("it looked at all budgets"))
    assert {state.budget.amount for state in world.budgets.states(TENANT)} == {100, 50}
    assert {state.budget.amount for state in world.budgets.states(TENANT, KEY)} == {100, 50}
    assert world.budgets.states(TENANT + 1) == []
