"""Flex requests: behind the others of their tenant, and behind other tenants if theirs has nothing else to do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Priority
from tenantd.wire.messages import Backlog, Forget
from tests.engine.world import BURST_CREDIT, World, newcomers_bound, scenarios, world


def begun(w: World) -> list[int]:
    """The requests that have a slot."""
    return sorted(job.arrival for job in w.scheduler.active.values())


def some_steps(w: World, steps: int) -> None:
    for _ in range(steps):
        w.step()


def test_they_wait_behind_later_requests_of_their_tenant_and_give_them_their_slots() -> None:
    w = world(slots=2)
    for request in range(4):
        w.submit(request, "a", 8, 40, is_flex=True)
    some_steps(w, 10)
    assert begun(w) == [0, 1]
    w.submit(4, "a", 8, 40)
    some_steps(w, 10)
    assert begun(w) == [0, 4], "the newest made room, once"
    w.submit(5, "a", 8, 40)
    some_steps(w, 10)
    assert begun(w) == [4, 5]
    assert (w.swaps, w.recomputes) == (2, 0)
    w.run()
    ends = list(w.finishes)
    assert sorted(ends[:2]) == [4, 5] and sorted(ends[2:4]) == [0, 1], "those that made room go on before the others"
    assert set(w.finishes.values()) == {FinishReason.LENGTH}
    alone = world(slots=1)
    alone.submit(1, "a", 8, 40)
    alone.run()
    assert w.tokens[1] == alone.tokens[1], "at the exact next token"
    assert all(w.prefilled[request] == 8 for request in range(6)), "and it is billed once"


def test_one_makes_room_where_its_tenant_may_have_no_more_though_slots_are_free() -> None:
    w = world(slots=4)
    w.share("a", max_concurrent=1)
    w.submit(0, "a", 8, 100, is_flex=True)
    some_steps(w, 10)
    w.submit(1, "a", 8, 8)
    some_steps(w, 5)
    assert begun(w) == [1]
    w.run()
    assert list(w.finishes) == [1, 0]


def test_each_that_makes_room_in_a_step_makes_it_for_its_own_tenant() -> None:
    w = world(slots=3)
    w.share("single", max_concurrent=1)
    w.submit(0, "single", 8, 100, is_flex=True)
    w.submit(1, "a", 8, 100)
    w.submit(2, "b", 8, 100, is_flex=True)
    some_steps(w, 10)
    assert begun(w) == [0, 1, 2]
    w.loop.apply([Backlog("c", True)])  # so that nobody is entitled to a whole slot
    w.fairness.charge("b", 30, w.now_s)
    for request, tenant in ((3, "a"), (4, "single"), (5, "b")):
        w.submit(request, tenant, 8, 100)
    w.step()
    assert begun(w) == [1, 4, 5]


def test_a_slot_that_was_freed_for_a_tenant_that_is_gone_goes_to_the_neediest() -> None:
    w = world(slots=1)
    w.submit(0, "a", 8, 100, is_flex=True)
    some_steps(w, 10)
    w.submit(1, "a", 8, 8)
    victim = w.scheduler.next_victim(w.now_s)
    assert victim is not None
    w.loop._swap_out(*victim)  # and binding takes so long that the step ends before the slot is given
    w.cancel(0)
    w.cancel(1)
    w.loop.apply([Forget("a")])
    w.submit(2, "b", 8, 8)
    w.run()
    assert w.finishes[2] is FinishReason.LENGTH


def test_none_makes_room_whose_state_cannot_be_kept_since_nobody_would_pay_for_it() -> None:
    w = world(slots=1, swap_bytes=0)
    for flex in (0, 2):
        w.submit(flex, "a", 8, 40, is_flex=True)
        some_steps(w, 10)
        w.submit(flex + 1, "a", 8, 40)
        w.run()
    assert list(w.finishes)[2:] == [2, 3], "the first one showed that there is no room"
    assert (w.swaps, w.recomputes) == (0, 1)


def served(w: World, steps: int, *, is_flex: bool) -> float:
    """What `a` gets for each unit of `b` while both have more than enough to do."""
    before = dict(w.service)
    for _ in range(steps):
        for name in "ab":
            while w.unfinished[name] < 8:
                w.submit(len(w.submits), name, 8, 16, is_flex=is_flex and name == "a")
        w.step()
    return (w.service["a"] - before.get("a", 0)) / (w.service["b"] - before.get("b", 0))


def test_a_tenant_with_nothing_else_counts_as_one_of_the_lowest_class_and_with_anything_else_as_before() -> None:
    w = world(slots=4)
    assert 0.08 < served(w, 3000, is_flex=True) < 0.18
    for request in w.submits.keys() - w.finishes.keys():
        w.cancel(request)
    assert 0.8 < served(w, 1500, is_flex=False) < 1.25, "what it had as flex is not held against it"
    high = world(slots=4)
    high.share("a", weight=Priority.HIGH.factor, priority=Priority.HIGH)
    assert 0.08 < served(high, 3000, is_flex=True) < 0.18


def test_the_weight_follows_what_the_daemon_still_has() -> None:
    w = world(slots=1)
    w.submit(0, "a", 8, 40, is_flex=True)
    tenant = w.scheduler._tenants["a"]
    assert tenant.weight == 1 / 8 and not tenant.credit, "nor has it a credit for being back"
    w.loop.apply([Backlog("a", True)])
    assert tenant.weight == 1
    w.loop.apply([Backlog("a", True, True)])
    assert tenant.weight == 1 / 8
    w.loop.apply([Backlog("a", False)])
    w.run()
    assert tenant.weight == 1 and not tenant.flex and not tenant.ordinary


def test_changing_between_the_two_multiplies_no_credit() -> None:
    w = world(slots=1)
    w.share("a", weight=1 / 8)
    w.fairness.begin_to_wait("a", 1000.0, [], 0.0)
    w.share("a", weight=1)
    assert w.fairness._accounts["a"].behind <= BURST_CREDIT


@scenarios
@given(kinds=st.lists(st.booleans(), min_size=1, max_size=12), output=st.integers(1, 30), slots=st.integers(1, 4))
def test_no_mixture_gets_a_tenant_more_than_its_part(kinds: list[bool], output: int, slots: int) -> None:
    w = world(slots=slots)
    for _ in range(250):
        for name in "ab":
            while w.unfinished[name] < 6:
                number = len(w.submits)
                w.submit(number, name, 8, output, is_flex=name == "a" and kinds[number % len(kinds)])
        w.step()
        assert w.service["a"] - w.service["b"] <= newcomers_bound(w, 8)
