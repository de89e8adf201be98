"""Steps by slack: a stream keeps its pace beside the prompts of others, who get the time in between."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.domain import Priority
from tenantd.engine.compute import Chunk
from tests.engine.world import World, world

STREAM, LONG = 0, 1000
"""A request with a short prompt, and the first of those with long ones."""
TOKEN_MICROS = 500
PACES_MS = {"target_itl_high_ms": 20, "target_itl_ms": 40, "target_itl_low_ms": 80}


def beside_long_prompts(priority: Priority = Priority.STANDARD, **settings: Any) -> World:
    """A single stream of one tenant, beside a flood of long prompts of another that has used more. A pass takes 1 ms
    and 0.5 ms for each token."""
    given = {"max_stall_ms": 200, "target_step_ms": 100, **PACES_MS, **settings}
    w = world(slots=4, chunk=512, token_micros=TOKEN_MICROS, **given)
    w.share("quiet", priority=priority)
    w.fairness.charge("noisy", 10_000, 0)
    for request in range(LONG, LONG + 40):
        w.submit(request, "noisy", 400, 2)
    for _ in range(10):
        w.step()
    w.submit(STREAM, "quiet", 8, 300)
    while len(w.tokens[STREAM]) < 3:
        w.step()
    return w


def gaps_ms(w: World, tokens: int) -> list[float]:
    """Between the next tokens of the stream."""
    gaps, last_s = [], w.now_s
    while len(gaps) < tokens:
        before = len(w.tokens[STREAM])
        w.step()
        assert STREAM not in w.finishes
        if len(w.tokens[STREAM]) > before:
            gaps.append(1000 * (w.now_s - last_s))
            last_s = w.now_s
    return gaps[1:]


@pytest.mark.parametrize(("priority", "pace_ms"), [(Priority.HIGH, 20), (Priority.STANDARD, 40), (Priority.LOW, 80)])
def test_a_stream_keeps_the_pace_of_its_class_and_the_prompts_of_others_get_the_rest(priority, pace_ms) -> None:
    w = beside_long_prompts(priority)
    before, began_s = w.service["noisy"], w.now_s
    gaps = gaps_ms(w, 50)
    assert max(gaps) <= pace_ms
    busy_ms = 1000 * (w.now_s - began_s)
    prompt_ms = (w.service["noisy"] - before) * TOKEN_MICROS / 1000
    assert prompt_ms >= (1 - 16 / pace_ms) * busy_ms  # at most a tile of 8 ms, and a few small passes, are lost


def test_without_time_for_prompts_within_the_pace_they_get_a_step_every_max_stall() -> None:
    w = beside_long_prompts(target_itl_ms=5)  # 16 tokens take 9 ms
    before, began_s = w.service["noisy"], w.now_s
    gaps = gaps_ms(w, 200)
    assert sorted(gaps)[len(gaps) // 2] <= 3
    assert max(gaps) <= 100 + 8 + 3
    assert w.service["noisy"] - before >= 150 * int((w.now_s - began_s) / 0.31)


def test_the_first_token_of_a_needier_tenant_does_not_wait_for_the_pace_of_others() -> None:
    w = world(slots=4, chunk=512, token_micros=TOKEN_MICROS, max_stall_ms=200, target_itl_ms=20)
    w.fairness.charge("noisy", 10_000, 0)
    for request in range(LONG, LONG + 4):
        w.submit(request, "noisy", 8, 400)
    for _ in range(30):
        w.step()
    began_s, streams = w.now_s, sum(len(w.tokens[request]) for request in range(LONG, LONG + 4))
    w.submit(STREAM, "quiet", 200, 4)
    while not w.tokens[STREAM]:
        w.step()
    assert 1000 * (w.now_s - began_s) <= 110  # of which 100 for its prompt
    assert sum(len(w.tokens[request]) for request in range(LONG, LONG + 4)) - streams <= 8


def longest_prompt_pass(w: World, steps: int) -> int:
    """In tokens."""
    longest = 0
    for _ in range(steps):
        before = w.service["noisy"]
        w.step()
        longest = max(longest, w.service["noisy"] - before)
    return longest


def test_steps_are_short_only_while_another_tenant_may_be_back() -> None:
    w = world(slots=4, chunk=512, token_micros=TOKEN_MICROS, max_stall_ms=200, target_step_ms=50, half_life_s=60)
    for request in range(LONG, LONG + 200):
        w.submit(request, "noisy", 300, 2)
    longest_prompt_pass(w, 5)  # until the speed is known
    assert longest_prompt_pass(w, 10) > 300
    w.submit(STREAM, "quiet", 8, 2)
    while STREAM not in w.finishes:
        w.step()
    assert longest_prompt_pass(w, 10) <= 150 + 2 * 4  # 50 ms, and half as much again to complete a prompt
    w.now_s += 61
    assert longest_prompt_pass(w, 10) > 300


def longest_step_ms(w: World, steps: int) -> float:
    longest = 0.0
    for _ in range(steps):
        began_s = w.now_s
        w.step()
        longest = max(longest, w.now_s - began_s)
    return 1000 * longest


def test_passes_are_longer_for_the_prompt_of_the_only_request() -> None:
    steps = {"max_stall_ms": 50, "target_step_ms": 10, "half_life_s": 60}
    w = world(slots=4, chunk=1024, context_tokens=1024, token_micros=TOKEN_MICROS, **steps)
    w.submit(LONG, "noisy", 400, 1)
    while LONG not in w.finishes:
        w.step()  # until the speed is known
    w.submit(LONG + 1, "noisy", 600, 100)
    assert 150 <= longest_step_ms(w, 2) <= 205
    assert w.tokens[LONG + 1]
    w.submit(LONG + 2, "noisy", 400, 1)
    assert longest_step_ms(w, 20) <= 80, "beside its own stream, and half as much again to complete a prompt"
    w.cancel(LONG + 1)
    w.run()
    w.submit(LONG + 3, "noisy", 400, 1)
    w.submit(LONG + 4, "noisy", 400, 1)
    assert longest_step_ms(w, 4) <= 80, "others of its tenant may go on for hours, and somebody may come"
    w.run()
    w.submit(LONG + 5, "noisy", 400, 1)
    w.submit(STREAM, "quiet", 400, 1)
    assert longest_step_ms(w, 4) <= 80


def test_a_prompt_joins_a_pass_only_with_all_that_is_left_of_it_or_enough() -> None:
    w = world(slots=4, chunk=16)
    for request, tokens in enumerate((29, 40, 3, 24)):
        w.submit(request, "acme", tokens, 1)
    w.step()
    w.step()
    assert w.prefilled == {0: 29, 2: 3}  # 3 of 40 tokens would not have been worth it
    for _ in range(3):
        w.step()
    assert w.prefilled == {0: 29, 2: 3, 1: 40, 3: 8}


def test_a_prompt_whose_tenant_has_few_tokens_left_in_the_minute_joins_with_all_it_may_or_not_at_all() -> None:
    w = world(slots=4, chunk=64)
    w.share("paced", tokens_per_minute=3)
    w.fairness.charge("paced", 10, 0)  # so that the other goes first
    w.submit(1, "other", 30, 1)
    w.submit(2, "paced", 40, 1)
    w.step()
    assert w.prefilled == {1: 30}


def test_a_pass_that_took_far_too_long_does_not_slow_prompts_down_for_good() -> None:
    w = beside_long_prompts()
    w.scheduler.slack.learn([Chunk(0, 0, [1], True, STREAM)], 60_000_000)  # the machine slept
    gaps_ms(w, 20)
    before, began_s = w.service["noisy"], w.now_s
    gaps_ms(w, 50)
    assert (w.service["noisy"] - before) * TOKEN_MICROS / 1e6 >= 0.6 * (w.now_s - began_s)
