"""Whose engine time it is: a pass is shared, and what only one request needs is that request's own."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.domain import FinishReason, Sampling
from tenantd.engine.compute import Chunk, PassResult, RequestRejected
from tenantd.engine.fake import FakeCompute
from tenantd.wire.messages import Step
from tests.engine.world import STEP_MICROS, World, world

SAMPLING_MICROS = 40
GRAMMAR_MICROS = 3_000
BIND_MICROS = 20_000
COSTLY = "costly"
REFUSED = "refused"


class Costly(FakeCompute):
    """Takes a while to sample, and longer with a grammar: for each token, and to bind it."""

    def bind(self, sequence: int, sampling: Sampling, *rest: Any) -> int:
        if sampling.grammar == REFUSED:
            raise RequestRejected("refused", param="grammar", micros=BIND_MICROS)
        super().bind(sequence, sampling, *rest)
        return BIND_MICROS if sampling.grammar else 0

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        own: dict[int, int] = {}
        for sequence, sampled in result.sampled.items():
            sampling = self._sampling[sequence]
            grammar_micros = GRAMMAR_MICROS if sampling and sampling.grammar else 0
            result.sampled[sequence] = sampled._replace(grammar_micros=grammar_micros)
            own[sequence] = SAMPLING_MICROS + grammar_micros
        return PassResult(result.sampled, result.micros, own)


def costly_world(**settings: Any) -> World:
    plain = world(slots=4, chunk=64, **settings)
    return World(plain.load, plain.chunk, plain.settings, engine=Costly)


def run(w: World) -> list[Step]:
    """To the end. `busy_micros` must always be the sum of what is billed and what is not."""
    steps = []
    while w.has_work:
        steps.append(w.loop.step())
        assert steps[-1].busy_micros == sum(p.micros for p in steps[-1].progress) + steps[-1].unbilled_micros
        assert len({p.request for p in steps[-1].progress}) == len(steps[-1].progress), "one of each in a step"
    return steps


def billed(steps: list[Step], request: int) -> int:
    return sum(p.micros for step in steps for p in step.progress if p.request == request)


def test_a_neighbours_costly_sampling_is_not_on_the_bill() -> None:
    bills = []
    for grammar in ("", COSTLY):
        w = costly_world()
        w.submit(0, "a", 8, 24)
        w.submit(1, "b", 8, 24, grammar=grammar)
        steps = run(w)
        bills.append(billed(steps, 0))
        assert billed(steps, 1) - bills[-1] == (24 * GRAMMAR_MICROS + BIND_MICROS if grammar else 0)
        assert sum(step.unbilled_micros for step in steps) == 0
    assert bills[0] == bills[1]


def test_binding_and_grammar_count_in_usage_as_the_prompt_tokens_that_take_as_long() -> None:
    w = costly_world()
    w.submit(0, "a", 64, 1)  # so that the speed of prompts is known
    run(w)
    w.submit(1, "b", 64, 24)
    w.submit(2, "c", 64, 24, grammar=COSTLY)
    run(w)
    usage = w.fairness.snapshot(w.now_s)
    time_micros = 24 * GRAMMAR_MICROS + BIND_MICROS
    assert usage["c"] - usage["b"] == pytest.approx(w.scheduler.slack.tokens_in(time_micros), rel=0.02)


def test_a_request_that_is_refused_when_it_is_bound_pays_for_the_time_it_took() -> None:
    w = costly_world()
    w.submit(0, "a", 64, 1)
    run(w)
    w.submit(1, "b", 8, 8, grammar=REFUSED)
    (step,) = run(w)
    assert [(p.request, p.token, p.micros) for p in step.progress] == [(1, -1, BIND_MICROS)]
    assert [(f.request, f.reason, f.param) for f in step.finishes] == [(1, FinishReason.FAILED, "grammar")]
    assert w.fairness.snapshot(w.now_s)["b"] > 0


def test_after_a_crash_binding_again_is_charged_to_nobody() -> None:
    w = costly_world()
    w.submit(0, "a", 64, 24, grammar=COSTLY, generated=[1, 2, 3], billed=64)
    steps = run(w)
    assert sum(step.unbilled_micros for step in steps) >= BIND_MICROS
    first_micros = STEP_MICROS // 3  # computed together with two tokens that the crash lost
    assert billed(steps, 0) == 21 * (SAMPLING_MICROS + GRAMMAR_MICROS) + 20 * STEP_MICROS + first_micros


def test_requests_that_take_long_to_bind_are_bound_between_steps_of_the_others() -> None:
    """Each takes as long as a step may spend on it, so there is one in each step and no more."""
    w = costly_world()
    w.submit(0, "a", 8, 40)
    w.loop.step()
    for request in range(1, 30):
        w.submit(request, "b", 8, 1, grammar=REFUSED)
    tokens = 0
    for _ in range(29):
        step = w.loop.step()
        assert len(step.finishes) <= 1
        tokens += sum(p.request == 0 and p.token >= 0 for p in step.progress)
    assert tokens >= 28, "whoever decodes gets a token between any two of them"
