"""What the scheduler does in one situation each: slots, preemption, pacing, prompts, adapters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tenantd.domain import FinishReason
from tenantd.engine.fake import BROKEN_GRAMMAR
from tenantd.wire.messages import Cancel
from tenantd.wire.settings import Policy
from tests.engine.world import SETTINGS, STEP_MICROS, World, bound, world


def flooded(**settings: Any) -> World:
    """A noisy tenant with all four slots and more waiting, well under way."""
    w = world(slots=4, chunk=64, **settings)
    for request in range(100, 140):
        w.submit(request, "noisy", 32, 200)
    for _ in range(60):
        w.step()
    return w


def steps_to_first_token(w: World, request: int) -> int:
    steps = 0
    while not w.tokens[request]:
        w.step()
        steps += 1
    return steps


def served_in(w: World, steps: int) -> Counter[str]:
    """From now on."""
    before = Counter(w.service)
    for _ in range(steps):
        w.step()
    return w.service - before


def test_a_tenant_held_at_zero_waits_without_work_and_goes_on_when_it_may():
    w = world()
    w.share("a", max_concurrent=0)
    w.submit(0, "a", 4, 4)
    assert not w.has_work and not w.scheduler.is_idle
    w.share("a")
    w.run()
    assert w.finishes[0] is FinishReason.LENGTH


def test_two_backlogged_tenants_get_service_by_weight():
    w = world(slots=4, chunk=64)
    w.share("a", weight=3)
    for request in range(400):
        w.submit(request, "ab"[request % 2], 32, 16)
    while len(w.finishes) < 200:
        w.step()
    assert abs(w.service["a"] / 3 - w.service["b"]) <= bound(w, prompt=32)


def test_the_neediest_tenants_prompt_goes_first_whatever_its_slot():
    w = world(slots=2, chunk=8)
    w.fairness.charge("heavy", 1000, 0)
    w.submit(0, "heavy", 100, 4)
    w.step()  # heavy has slot 0 and has begun
    w.submit(1, "light", 16, 1)
    w.step()
    w.fairness.charge("heavy", 1000, 0)
    before = w.prefilled[0]
    w.step()
    w.step()
    assert w.prefilled[1] == 16 and 1 in w.tokens
    assert w.prefilled[0] == before


def test_one_tenant_does_not_take_all_free_slots_at_once():
    w = world(slots=4)
    for request in range(20):
        w.submit(request, "a" if request < 16 else "b", 20, 20)
    w.step()
    held = Counter(job.submit.tenant for job in w.scheduler._active.values())
    assert held == {"a": 2, "b": 2}


def test_a_rejected_request_fails_with_the_reason_and_its_slot_goes_to_the_next():
    w = world(slots=1)
    w.submit(0, "a", 4, 4, grammar=BROKEN_GRAMMAR)
    w.submit(1, "a", 4, 4)
    w.run()
    assert w.finishes == {0: FinishReason.FAILED, 1: FinishReason.LENGTH}


def test_a_request_at_the_end_of_its_context_ends_with_length():
    w = world(context_tokens=64)
    w.submit(0, "a", 60, 100)
    w.run()
    assert w.finishes[0] is FinishReason.LENGTH
    assert len(w.tokens[0]) == 4


def test_a_prompt_longer_than_the_context_fails_alone():
    w = world(context_tokens=64)
    w.submit(0, "a", 65, 1)
    w.submit(1, "a", 10, 1)
    w.run()
    assert w.finishes == {0: FinishReason.FAILED, 1: FinishReason.LENGTH}


def test_cancelling_ten_thousand_queued_requests_leaves_the_other_tenant_running():
    w = world(slots=2)
    w.submit(99_999, "b", 8, 30)
    for request in range(10_000):
        w.submit(request, "a", 8, 8)
    w.step()
    w.loop.apply([Cancel(request) for request in range(10_000)])
    w.run()
    assert w.finishes[99_999] is FinishReason.LENGTH
    assert Counter(w.finishes.values())[FinishReason.CANCELLED] == 10_000


# ---- preemption -----------------------------------------------------------------------------------------------------


def test_a_needier_tenant_gets_a_slot_at_once_from_one_that_holds_more_than_its_share() -> None:
    w = flooded()
    w.submit(0, "quiet", 32, 20)
    assert steps_to_first_token(w, 0) <= 2
    fifo = flooded(policy=Policy.FIFO)
    fifo.submit(200, "quiet", 32, 20)
    assert steps_to_first_token(fifo, 200) > 500


@pytest.mark.parametrize("swap_bytes", [1 << 30, 0])
def test_who_gave_way_goes_on_token_for_token_and_is_charged_once(swap_bytes: int) -> None:
    alone = world(slots=4, chunk=64)
    for request in range(100, 104):
        alone.submit(request, "noisy", 32, 200)
    alone.run()
    w = flooded(swap_bytes=swap_bytes)
    for request in range(8):
        w.submit(request, "quiet", 32, 20)
    w.run()
    assert (w.swaps > 0, w.recomputes > 0) == (swap_bytes > 0, swap_bytes == 0)
    for request in range(100, 104):
        assert w.tokens[request] == alone.tokens[request]
        assert w.prefilled[request] == 32
    assert w.service["noisy"] == 40 * (32 + 2 * 200)


def test_a_request_that_ends_while_it_is_swapped_out_leaves_nothing_behind() -> None:
    w = flooded()
    w.submit(0, "quiet", 32, 20)
    w.step()
    [swapped] = w.scheduler.states.requests()
    w.loop.apply([Cancel(swapped)])
    w.step()
    assert w.scheduler.states.room_bytes == w.load.swap_bytes
    w.run()
    assert w.compute.is_empty()


def test_idle_reserved_slots_are_lent_and_taken_back() -> None:
    w = world(slots=4, chunk=64)
    w.share("vip", weight=0.001, reserved_slots=2)
    for request in range(100, 120):
        w.submit(request, "noisy", 16, 100)
    for _ in range(30):
        w.step()
    assert Counter(job.submit.tenant for job in w.scheduler._active.values()) == {"noisy": 4}
    for request in range(3):
        w.submit(request, "vip", 16, 100)
    w.step()
    w.step()  # one a step
    assert Counter(job.submit.tenant for job in w.scheduler._active.values()) == {"noisy": 2, "vip": 2}


def test_equal_tenants_with_full_queues_do_not_take_slots_from_each_other() -> None:
    w = world(slots=4, chunk=64)
    for request in range(80):
        w.submit(request, "ab"[request % 2], 32, 32)
    w.run()
    assert w.swaps + w.recomputes <= 8  # a few while their first answers are compared


# ---- pacing and prompts ---------------------------------------------------------------------------------------------


def test_a_paced_stream_gets_its_limit_every_minute_and_never_more() -> None:
    w = world(slots=2, chunk=64)
    w.share("a", tokens_per_minute=100)
    w.submit(0, "a", 40, 300)
    w.submit(1, "b", 40, 300)
    w.run()
    assert len(w.tokens[0]) == len(w.tokens[1]) == 300
    assert 180 <= w.now_s < 190  # 340 tokens at 100 a minute: the rest waits until the fourth minute begins
    times = w.given["a"]
    for at_s, _ in times:
        assert sum(tokens for other_s, tokens in times if other_s <= at_s < other_s + 60) <= 100


def test_a_paced_tenant_gives_its_slot_to_whoever_can_use_it() -> None:
    w = world(slots=1, chunk=64)
    w.share("a", tokens_per_minute=50)
    w.submit(0, "a", 40, 100)
    w.step()
    while w.has_work:
        w.step()
    w.submit(1, "b", 10, 10)
    for _ in range(12):
        w.step()
    assert w.finishes == {1: FinishReason.LENGTH}
    w.run()
    assert w.finishes[0] is FinishReason.LENGTH and len(w.tokens[0]) == 100


def test_a_long_prompt_does_not_stall_the_others_for_longer_than_is_allowed() -> None:
    w = world(slots=2, chunk=8, max_stall_ms=5)
    w.submit(0, "a", 8, 200)
    w.step()
    w.submit(1, "b", 400, 10)
    gaps, last_s = [], w.now_s
    while 1 not in w.finishes:
        before = len(w.tokens[0])
        w.step()
        if len(w.tokens[0]) > before:
            gaps.append(w.now_s - last_s)
            last_s = w.now_s
    assert max(gaps) <= 0.005 + 2 * STEP_MICROS / 1e6


# ---- adapters, shares and what changes ------------------------------------------------------------------------------


def test_adapters_take_turns_and_nobody_waits_longer_than_one_round() -> None:
    w = world(slots=6, chunk=64, max_stall_ms=2)
    w.adapters = {"a": "x", "b": "y", "c": ""}
    for request in range(60):
        w.submit(request, "abc"[request % 3], 16, 40)
    last: dict[int, float] = {}
    widest = 0.0
    for _ in range(400):
        held = {job.submit.request for job in w.scheduler._active.values() if job.is_decoding}
        before = {request: len(w.tokens[request]) for request in held}
        w.step()
        got = {request for request in held if len(w.tokens[request]) > before[request]}
        last = {request: w.now_s if request in got else last.get(request, w.now_s) for request in held}
        widest = max([widest, *(w.now_s - since_s for since_s in last.values())])
    # three adapters, and between two of their passes a prompt's
    assert widest <= (2 * 3 + 1) * STEP_MICROS / 1e6
    w.run()
    assert len(w.finishes) == 60 and set(w.finishes.values()) == {FinishReason.LENGTH}


def test_slots_that_a_tenant_cannot_use_are_shared_by_the_others_however_long_their_requests_are() -> None:
    w = world(slots=8, chunk=64)
    w.share("vip", weight=8)
    w.submit(1000, "vip", 8, 450)
    for request in range(20):
        w.submit(request, "a", 8, 450)
    for _ in range(5):
        w.step()
    for request in range(100, 120):
        w.submit(request, "b", 8, 450)
    served_in(w, 20)  # b has come in
    served = served_in(w, 200)
    assert abs(served["a"] - served["b"]) <= bound(w, 8)


def test_a_reserve_is_had_though_everybody_else_is_within_a_larger_share() -> None:
    w = world(slots=8, chunk=64)
    w.share("r", reserved_slots=4)
    w.share("h1", weight=10)
    w.share("h2", weight=10)
    for request in range(40):
        w.submit(request, ("h1", "h2")[request % 2], 8, 300)
    for _ in range(20):
        w.step()
    for request in range(100, 110):
        w.submit(request, "r", 8, 300)
    for _ in range(8):
        w.step()
    held = Counter(job.submit.tenant for job in w.scheduler._active.values())
    assert held == {"r": 4, "h1": 2, "h2": 2}


def test_a_prompt_that_has_to_wait_for_its_minute_slows_nobody_down() -> None:
    """One token is left of its minute, and the end of a prompt takes two."""
    w = world(slots=2, chunk=64)
    w.share("a", tokens_per_minute=10)
    w.submit(0, "a", 4, 5)
    w.submit(1, "b", 4, 400)
    for _ in range(8):
        w.step()
    assert w.finishes == {0: FinishReason.LENGTH}
    w.submit(2, "a", 1, 1)
    before = len(w.tokens[1])
    for _ in range(50):
        w.step()
    assert len(w.tokens[1]) - before == 50
    w.run()
    assert set(w.finishes.values()) == {FinishReason.LENGTH} and w.now_s >= 60


def test_a_tenant_at_its_limit_takes_no_slot_for_one_token() -> None:
    w = world(slots=1, chunk=64)
    w.share("a", tokens_per_minute=30)
    w.submit(0, "a", 4, 100)
    while w.has_work:
        w.step()
    w.submit(1, "b", 4, 400)
    while 1 not in w.finishes:
        w.now_s += 0.25  # a's minute moves on while b runs
        w.step()
    assert w.swaps <= 2 + 2 * 400 * 0.25 / 60 * 2


def test_a_newcomer_keeps_its_slot_until_its_first_token() -> None:
    w = world(slots=1, chunk=16)
    for request in range(3):
        w.submit(request, "a", 8, 200)
    for _ in range(20):
        w.step()
    w.submit(9, "b", 100, 10)
    steps_to_first_token(w, 9)
    assert w.swaps == 1


def test_a_weight_that_changes_counts_from_the_next_step() -> None:
    w = world(slots=4, chunk=64)
    for request in range(400):
        w.submit(request, "ab"[request % 2], 8, 30)
    served_in(w, 50)
    even = served_in(w, 300)
    w.share("b", weight=3)
    served_in(w, 50)
    by_weight = served_in(w, 300)
    assert abs(even["a"] - even["b"]) <= bound(w, 8)
    assert abs(by_weight["a"] - by_weight["b"] / 3) <= bound(w, 8)


def test_without_room_for_states_only_who_is_short_of_its_share_makes_others_compute_again() -> None:
    w = world(slots=4, chunk=64, swap_bytes=0)
    for request in range(60):
        w.submit(request, "ab"[request % 2], 30, 60)
    w.run()
    assert w.swaps == 0 and w.recomputes <= 4


def test_who_is_behind_when_the_engine_dies_is_still_behind_afterwards() -> None:
    w = world(slots=2, chunk=64)
    for request in range(20):
        w.submit(request, "ab"[request % 2], 16, 100)
    for _ in range(20):
        w.step()
    w.fairness.charge("a", 500, w.now_s)
    w.crash()
    assert w.fairness.normalised("a", w.now_s) - w.fairness.normalised("b", w.now_s) > 400
    before = Counter(w.service)
    for _ in range(100):
        w.step()
    assert w.service["b"] - before["b"] > 2 * (w.service["a"] - before["a"])


def test_ten_thousand_waiting_requests_of_one_tenant_do_not_delay_another() -> None:
    w = world(slots=2, chunk=64)
    for request in range(10_000):
        w.submit(request, "a", 8, 8)
    for _ in range(50):
        w.step()
    w.submit(99_999, "b", 8, 4)
    assert steps_to_first_token(w, 99_999) <= 1 + SETTINGS.min_run_tokens
    while 99_999 not in w.finishes:
        w.step()
    assert w.now_s < 0.1
