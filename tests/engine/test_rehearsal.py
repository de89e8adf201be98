"""The order and the waits that clients are told are those that then come."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.forecast import LEAST_PART, MOST_ORDERED, Forecast
from tenantd.engine.lengths import Lengths
from tenantd.engine.rehearsal import Rehearsal
from tenantd.wire.messages import Backlog, Step
from tenantd.wire.settings import Policy
from tests.engine.world import World, scenarios, world


def order(w: World) -> list[int]:
    return rehearsed(w).order(MOST_ORDERED)


def rehearsed(w: World) -> Rehearsal:
    scheduler = w.scheduler
    rehearsal = Rehearsal(scheduler.sharing, scheduler.active.values(), scheduler.slack, Lengths(), {}, w.now_s)
    while rehearsal.go_on():
        pass
    return rehearsal


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
    assert rehearsed(w).order(3) == told[:3], "as many as are asked for"
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


def waits(w: World) -> dict[int, float]:
    """In seconds, as foreseen."""
    outlook = rehearsed(w).outlook(w.now_s)
    assert outlook is not None, "speeds are known"
    return {request: wait_ms / 1000 for request, wait_ms in outlook.waits_ms.items()}


def go_on(w: World) -> None:
    """A step, or time passes until there is something to do."""
    if w.has_work:
        w.step()
    else:
        w.now_s = w.scheduler.wake_s(w.now_s) or w.now_s + 1


def errors(w: World, told: dict[int, float]) -> list[float]:
    """How wrong they turn out, relative to the waits, in ascending order."""
    told_s, first_s = w.now_s, {}
    while told.keys() - first_s.keys():
        go_on(w)
        first_s |= {request: w.now_s for request in told if w.tokens[request] and request not in first_s}
    return sorted(
        abs(first_s[request] - told_s - wait_s) / (first_s[request] - told_s) for request, wait_s in told.items()
    )


def busy(**limits: Any) -> World:
    """Two tenants, one with limits, whose requests have 50 prompt tokens and 40 of output. Speeds are known."""
    w = world(slots=4, token_micros=500)
    w.share("limited", **limits)
    for request in range(48):
        w.submit(request, "limited" if request % 2 else "other", 50, 40)
    for _ in range(60):
        go_on(w)
    return w


@pytest.mark.parametrize(
    "limits", [{}, {"weight": 4}, {"max_concurrent": 1}, {"reserved_slots": 3}, {"tokens_per_minute": 400}], ids=str
)
def test_waits_are_foreseen_for_every_kind_of_limit(limits: dict[str, Any]) -> None:
    w = busy(**limits)
    told = waits(w)
    assert told.keys() == {request for request in range(48) if not w.tokens[request]}
    off = errors(w, told)
    assert off[len(off) // 2] < 0.15 and off[int(len(off) * 0.9)] < 0.5


def test_a_rehearsal_changes_nothing() -> None:
    rehearsing, other = busy(tokens_per_minute=400), busy(tokens_per_minute=400)
    while not other.scheduler.is_idle and other.now_s < 30:
        rehearsed(rehearsing)
        for w in (rehearsing, other):
            go_on(w)
    assert rehearsing.tokens == other.tokens and rehearsing.now_s == other.now_s
    assert rehearsing.fairness.snapshot(100) == other.fairness.snapshot(100)


def test_nothing_is_told_of_waits_before_speeds_are_known() -> None:
    w = world(slots=1)
    w.submit(0, "a", 8, 10)
    w.submit(1, "a", 8, 10)
    assert rehearsed(w).outlook(w.now_s) is None


def test_what_the_daemon_still_has_comes_as_often_as_what_is_here() -> None:
    w = world(slots=2)
    w.loop.apply([Backlog("a", True)])
    for request in range(6):
        w.submit(request, "a", 10, 100)
    for _ in range(30):
        w.step()
    outlook = rehearsed(w).outlook(w.now_s)
    assert outlook is not None
    apart_ms = (outlook.waits_ms[5] - outlook.waits_ms[2]) / 3
    assert outlook.apart_ms["a"] == pytest.approx(apart_ms, rel=0.5)


def test_clients_that_come_back_are_reckoned_with() -> None:
    w = world(slots=2)
    for n in range(200):
        w.top_up("often", 4, 10, 30)
        if n == 150:
            w.submit(1000, "late", 10, 100)
        w.step()
    forecast = w.loop._forecast
    assert forecast._returns.expected(w.now_s)["often"].part > 0.7
    assert "late" not in forecast._returns.expected(w.now_s), "nothing of it has ended"


def forecast_calls(tick_s: float, step_s: float) -> tuple[int, float]:
    """How many steps of this length a forecast is spread over, and how long it rests until the next one begins, where
    it takes `tick_s` to look at the clock."""
    w = busy()
    ticking_s = w.now_s

    def clock_s() -> float:
        nonlocal ticking_s
        ticking_s += tick_s
        return ticking_s

    forecast = Forecast(w.scheduler, clock_s)
    told, calls = None, 0
    while told is None:
        ticking_s += step_s
        _, told = forecast.go_on()
        calls += 1
    return calls, forecast._due_s - ticking_s


def test_a_forecast_takes_a_small_part_of_the_time() -> None:
    calls, rest_s = forecast_calls(tick_s=0.001, step_s=0)
    assert calls > 20, "one turn in each step"
    assert rest_s > 0.9 * LEAST_PART * 0.001 * calls, "and a long rest afterwards"


def test_a_forecast_takes_the_same_part_of_long_steps_as_of_short_ones() -> None:
    short, _ = forecast_calls(tick_s=0.0002, step_s=0.01)
    long, rest_s = forecast_calls(tick_s=0.0002, step_s=0.2)
    assert long < short / 2
    assert rest_s < 1, "it has rested meanwhile"
    longest, _ = forecast_calls(tick_s=0.0002, step_s=60)
    assert longest > 1, "but it holds no step up for long"


def many(tenants: int, **settings: Any) -> World:
    """Two requests of each, all at once. Speeds are known."""
    w = world(slots=4, token_micros=500, **settings)
    w.submit(2 * tenants, "first", 50, 20)
    w.run()
    for request in range(2 * tenants):
        w.submit(request, f"t{request % tenants}", 50, 40)
    for _ in range(10):
        w.step()
    return w


def calls(work: Callable[[], object]) -> int:
    """How many functions this calls."""
    count = 0

    def note(frame: object, event: str, what: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_turn_is_as_much_work_with_many_tenants_as_with_some() -> None:
    most = {}
    for tenants in (60, 300):
        scheduler = (w := many(tenants)).scheduler
        rehearsal = Rehearsal(scheduler.sharing, scheduler.active.values(), scheduler.slack, Lengths(), {}, w.now_s)
        most[tenants] = max(calls(rehearsal.go_on) for _ in range(100))
        assert not rehearsal.go_on(), "it has ended"
    assert most[300] < 1.2 * most[60]


def test_those_that_a_rehearsal_leaves_out_stand_behind_those_that_are_foreseen() -> None:
    w = many(60, min_run_tokens=1000)  # what is bound first starts first
    told, foreseen = rehearsed(w).order(200), waits(w)
    assert len(set(told)) == len(told) and set(told) <= set(waiting(w))
    assert {w.tenant_of(request) for request in told} == {w.tenant_of(request) for request in waiting(w)}
    known = [request for request in told if request in foreseen]
    assert len(known) > 20 and known == told[: len(known)]
    left_out = [request for request in told[len(known) :] if not w.tokens[request]]
    while any(not w.tokens[request] for request in known[:20]):
        w.step()
    assert sum(bool(w.tokens[request]) for request in left_out) <= 2, "those of equal usage may change places"


def test_answers_are_expected_to_be_as_long_as_their_tenants_last_ones() -> None:
    lengths = Lengths()
    w = world(slots=4)
    for request in range(40):
        w.submit(request, "a", 4, 20 + request)
    w.submit(100, "a", 4, 400)
    jobs = dict(w.scheduler._jobs)
    assert 16 <= lengths.left(jobs[100]) <= 384
    for request in range(40):
        jobs[request].generated = 20
        jobs[request].submit = msgspec.structs.replace(jobs[request].submit, max_tokens=400)
        lengths.ended(jobs[request])
    assert lengths.left(jobs[100]) == 20
    jobs[100].generated = 30
    assert lengths.left(jobs[100]) == 15, "longer than any so far: half as much again"
