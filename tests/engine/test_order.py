"""The order that clients are told is the one in which requests are then bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.loop import MOST_ORDERED
from tenantd.wire.messages import Step
from tenantd.wire.settings import Policy
from tests.engine.world import World, scenarios, world


def order(w: World) -> list[int]:
    return w.scheduler.order(w.now_s, MOST_ORDERED)


def binding_order(w: World) -> list[int]:
    """In which waiting requests get their first slot from now on."""
    bound: list[int] = []
    while not w.scheduler.is_idle:
        w.step()
        bound += [job.submit.request for job in w.scheduler._active.values() if job.submit.request not in bound]
        bound += sorted(request for request in w.finishes if request not in bound)
    return bound


def waiting(w: World) -> list[int]:
    return [job.submit.request for tenant in w.scheduler._tenants.values() for job in tenant.queue]


def test_one_tenants_requests_go_in_the_order_they_came() -> None:
    w = world(slots=2)
    for request in range(20):
        w.submit(request, "a", 8, 10)
    w.step()
    assert order(w) == list(range(2, 20))


def test_equal_tenants_take_turns_by_weight_and_the_told_order_is_the_one_that_comes() -> None:
    w = world(slots=1, min_run_tokens=1000)  # nobody gives a slot up, so what is bound first starts first
    w.share("heavy", weight=2)
    for request in range(30):
        w.submit(request, "heavy" if request < 15 else "light", 10, 128)
    w.step()
    told = order(w)
    assert sorted(told) == waiting(w)
    heavy = [request < 15 for request in told[:12]]
    assert 7 <= sum(heavy) <= 9, "two to one"
    came = [request for request in binding_order(w) if request in told]
    apart = [abs(came.index(request) - place) for place, request in enumerate(told)]
    assert max(apart[:12]) <= 2


def test_a_newcomer_stands_before_a_flood_and_a_tenant_without_its_reserve_before_all() -> None:
    w = world(slots=2, min_run_tokens=1000)
    w.share("vip", weight=0.01, reserved_slots=1)
    for request in range(10):
        w.submit(request, "flood", 10, 300)
    for _ in range(40):
        w.step()
    w.submit(20, "quiet", 10, 10)
    w.submit(30, "vip", 10, 10)
    assert order(w)[:2] == [30, 20]


def test_who_is_at_a_limit_stands_behind_those_that_may_start() -> None:
    w = world(slots=2)
    w.share("held", max_concurrent=0)
    w.share("paced", tokens_per_minute=0)
    for request in range(9):
        w.submit(request, ("held", "paced", "free")[request % 3], 10, 30)
    w.submit(9, "free", 10, 30)
    w.step()
    assert order(w) == [8, 9, 0, 1, 3, 4, 6, 7]


@scenarios
@given(
    requests=st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 60), st.integers(1, 300)), min_size=1, max_size=60
    ),
    slots=st.integers(1, 6),
    policy=st.sampled_from(Policy),
    limits=st.dictionaries(
        st.sampled_from("abcd"),
        st.fixed_dictionaries(
            {
                "weight": st.floats(0.1, 10),
                "max_concurrent": st.none() | st.integers(0, 3),
                "reserved_slots": st.integers(0, 2),
                "tokens_per_minute": st.none() | st.integers(2, 100),
            }
        ),
    ),
    steps=st.integers(0, 60),
)
def test_the_order_has_everything_that_waits_once(requests, slots, policy, limits, steps) -> None:
    w = world(slots, policy=policy)
    for name, limit in limits.items():
        w.share(name, **limit)
    for request, (tenant, prompt, output) in enumerate(requests):
        w.submit(request, tenant, prompt, output)
    for _ in range(steps):
        if w.has_work:
            w.step()
    told = order(w)
    assert sorted(told) == sorted(waiting(w))
    assert w.scheduler.order(w.now_s, 3) == told[:3], "as many as are asked for"
    for tenant in w.scheduler._tenants.values():
        own = [job.submit.request for job in tenant.queue]
        assert [request for request in told if request in own] == own or any(job.generated for job in tenant.queue)
    if policy is Policy.FIFO:
        free = [request for request in told if (tenant := requests[request][0]) not in limits]
        assert free == sorted(free)


def test_the_daemon_is_told_when_the_order_changes_and_at_most_once_a_second() -> None:
    w = world(slots=1)
    steps: list[Step] = []
    step = w.loop.step
    w.loop.step = lambda: steps.append(step()) or steps[-1]  # type: ignore[method-assign, func-returns-value]
    for request in range(3):
        w.submit(request, "a", 1, 1500)
    began_s = w.now_s
    w.run()
    told = [step.order for step in steps if step.order is not None]
    assert told == [[1, 2], [2], []]
    news = [step for step in steps if step.usage is not None]
    assert len(news) <= w.now_s - began_s + 2 < len(steps)
