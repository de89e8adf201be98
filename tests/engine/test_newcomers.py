"""Who comes to whom: newcomers start where the others are, and what was used before takes nobody's slots away."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Sampling
from tenantd.engine.jobs import REFILL, Job, TenantJobs
from tenantd.wire.messages import Submit
from tenantd.wire.settings import Settings
from tests.engine.chats import chats, text
from tests.engine.test_scheduling import served_in, steps_to_first_token
from tests.engine.world import BURST_CREDIT, SETTINGS, World, bound, world


def slots_held(w: World) -> Counter[str]:
    return Counter(job.submit.tenant for job in w.scheduler._active.values())


def test_who_worked_alone_and_pauses_for_an_instant_waits_no_longer_than_a_newcomers_first_tokens() -> None:
    w = world(slots=8, chunk=64)
    for request in range(8):
        w.submit(request, "alone", 16, 400)
    w.run()
    for request in range(100, 132):
        w.submit(request, "newcomer", 16, 400)
    w.step()
    w.submit(9, "alone", 16, 400)
    assert steps_to_first_token(w, 9) <= 6


def test_a_single_request_beside_a_flood_that_just_began_has_its_first_token_as_soon_as_alone() -> None:
    """Both tenants are back from idle and have a credit, which the flood divides among its requests."""
    w = world(slots=8, chunk=16)
    w.submit(0, "single", 64, 4)
    alone = steps_to_first_token(w, 0)
    w.run()
    for request in range(100, 132):
        w.submit(request, "flood", 64, 400)
    w.step()
    w.submit(1, "single", 64, 4)
    assert steps_to_first_token(w, 1) == alone


def test_work_next_to_a_single_stream_of_another_is_held_against_nobody_either() -> None:
    w = world(slots=8, chunk=64, context_tokens=4096)
    w.submit(50, "stream", 4, 3000)
    for request in range(7):
        w.submit(request, "busy", 16, 400)
    while w.unfinished["busy"]:
        w.step()
    for request in range(100, 132):
        w.submit(request, "newcomer", 16, 400)
    w.step()
    w.submit(9, "busy", 16, 400)
    assert w.fairness.normalised("newcomer", w.now_s) > 0.9 * w.fairness.normalised("busy", w.now_s)
    assert steps_to_first_token(w, 9) <= 6 + SETTINGS.max_stall_ms  # the stream has used least and decodes first


def test_a_tenant_that_waits_has_the_whole_slots_of_its_share_whatever_it_used_before() -> None:
    w = world(slots=8, chunk=64)
    w.fairness.charge("punished", 100_000, 0)
    for request in range(32):
        w.submit(request, "other", 8, 400)
    for _ in range(20):
        w.step()
    for request in range(100, 132):
        w.submit(request, "punished", 8, 400)
    for _ in range(4):
        w.step()  # a slot a step
    assert slots_held(w) == {"other": 4, "punished": 4}
    for _ in range(100):
        w.step()
        assert slots_held(w) == {"other": 4, "punished": 4}


def test_slots_that_get_free_go_to_whoever_has_fewer_than_the_whole_slots_of_its_share() -> None:
    w = world(slots=4, chunk=64, min_run_tokens=400)  # nobody is asked to give way
    for request in range(16):
        w.submit(request, "other", 8, 20)
    w.step()
    w.fairness.charge("punished", 100_000, 0)
    for request in range(100, 116):
        w.submit(request, "punished", 8, 20)
    while len(w.finishes) < 4:
        w.step()
    w.step()
    assert slots_held(w) == {"other": 2, "punished": 2}


def test_who_was_given_more_while_both_waited_gives_up_whole_slots_as_well() -> None:
    """Prompts fill a whole pass and decoding does not: with four slots each, one would get twice as much."""
    w = world(slots=8, chunk=64)
    for request in range(600):
        w.submit(request, "prompts", 64, 20)
        w.submit(1000 + request, "decodes", 1, 80)
    served = served_in(w, 1500)
    assert abs(served["prompts"] - served["decodes"]) <= bound(w, 64)


def test_a_fresh_engine_knows_where_newcomers_start() -> None:
    w = world(slots=2, chunk=64)
    w.submit(0, "alone", 16, 200)
    w.run()
    level = w.fairness.normalised("alone", w.now_s)
    w.crash()
    for request in range(100, 110):
        w.submit(request, "newcomer", 16, 100)
    w.step()
    assert w.fairness.normalised("newcomer", w.now_s) >= 0.99 * level
    w.submit(1, "alone", 16, 100)
    assert steps_to_first_token(w, 1) <= 2 * SETTINGS.min_run_tokens


def test_a_newcomer_need_not_wait_until_requests_have_begun_that_only_hold_their_slots() -> None:
    """The prompts of the tenant that is ahead are not computed as long as the other's is, which takes 120 steps."""
    w = world(slots=3, chunk=16, context_tokens=4096)
    w.fairness.charge("ahead", 5000, 0)
    w.submit(0, "long", 16 * 120, 4)
    w.submit(1, "ahead", 64, 4)
    w.submit(2, "ahead", 64, 4)
    w.step()
    w.submit(3, "newcomer", 4, 4)
    assert steps_to_first_token(w, 3) <= 4
    w.run()
    assert set(w.finishes.values()) == {FinishReason.LENGTH}


def test_nor_until_those_have_run_that_hold_their_slots_with_what_was_cached() -> None:
    w = chats(slots=3, chunk=16, context_tokens=4096)
    w.share("ahead", cache=7)
    w.submit(0, "ahead", text(0, 60), 1)
    w.run()
    w.fairness.charge("ahead", 5000, w.now_s)
    w.submit(1, "long", text(1, 16 * 120, same=0), 4)
    w.submit(2, "ahead", text(2, 100), 4)
    w.submit(3, "ahead", text(3, 100), 4)
    w.step()
    assert w.cached[2] and w.cached[3]
    w.submit(4, "newcomer", text(4, 4, same=0), 4)
    assert steps_to_first_token(w, 4) <= 4
    w.run()
    assert set(w.finishes.values()) == {FinishReason.LENGTH}


def test_what_began_with_something_cached_gives_way_once_before_it_has_run() -> None:
    submit = Submit(request=0, tenant="a", prompt=[1] * 64, max_tokens=4, sampling=0)
    job = Job(submit, Sampling(), submit.prompt, generated=0, charged_prompt=0)
    job.begin_with(32, 0.0)
    assert job.may_give_way(least_tokens=4)
    job.swaps = 1
    assert not job.may_give_way(least_tokens=4)
    job.advance(36, 4, 0.0)
    assert job.may_give_way(least_tokens=4)


def test_a_flex_request_that_only_holds_its_slot_makes_room_for_another_of_its_tenant() -> None:
    w = world(slots=2, chunk=16, context_tokens=4096)
    w.fairness.charge("ahead", 5000, 0)
    w.submit(0, "long", 16 * 120, 4)
    w.submit(1, "ahead", 64, 4, is_flex=True)
    w.step()
    w.submit(2, "ahead", 4, 4)
    w.step()
    assert [job.submit.request for job in w.scheduler.active.values()] == [0, 2]


def test_the_credit_of_a_return_is_used_up_by_what_is_cancelled_before_its_first_token() -> None:
    w = world(slots=2, chunk=16)
    w.submit(0, "evil", 64, 4)
    w.submit(1, "evil", 64, 4)
    w.step()
    w.cancel(1)
    assert w.scheduler._tenants["evil"].credit == BURST_CREDIT, "nothing of that was computed"
    w.submit(2, "evil", 64, 4)
    w.cancel(0)
    w.step()
    assert w.scheduler._tenants["evil"].credit == 0


def test_who_returns_again_and_again_with_long_prompts_uses_up_its_credit() -> None:
    w = world(slots=2, chunk=64)
    credits = []
    for request in range(5):
        w.submit(request, "evil", 64, 1)
        credits.append(w.scheduler._tenants["evil"].credit)
        w.run()
    assert credits == pytest.approx([BURST_CREDIT - 64 * request for request in range(4)] + [0], abs=2)
    w.now_s += 60 * REFILL
    w.submit(9, "evil", 64, 1)
    assert w.scheduler._tenants["evil"].credit == BURST_CREDIT


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 800)), min_size=1, max_size=40))
def test_credits_buy_no_more_than_one_and_what_refills(returns: list[tuple[float, float]]) -> None:
    """By the prompts that were computed with it; the last prompt of each return may take more."""
    tenant, settings, now_s, bought = TenantJobs(), Settings(), 0.0, 0.0
    for pause_s, cost in returns:
        now_s += pause_s
        tenant.come_back(settings, now_s)
        bought += min(cost, tenant.credit)
        tenant.spend(cost)
        tenant.credit = 0.0
    most = settings.burst_credit * (1 + now_s / (REFILL * settings.half_life_s))
    assert bought <= most + 1e-6
