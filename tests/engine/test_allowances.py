"""A request that has generated all it may for the time being is not computed, and costs nobody else anything."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Sampling
from tenantd.wire.messages import Allow, SetSampling, Submit
from tests.engine.world import World, world
from tests.support.examples import examples


def submit(w: World, request: int, tenant: str, max_tokens: int, allowed_tokens: int | None) -> None:
    w.submit(request, tenant, 4, max_tokens)
    if allowed_tokens is not None:
        w.loop.apply([Allow(request, allowed_tokens)])


def generated(w: World, request: int) -> int:
    job = w.scheduler._jobs.get(request)
    return -1 if job is None else job.generated


def test_it_stops_at_the_very_token_and_goes_on_at_the_next_one_it_is_allowed() -> None:
    w = world(slots=2)
    submit(w, 1, "acme", 30, 5)
    for _ in range(20):
        w.step()
    assert generated(w, 1) == 5
    assert w.loop.patience_s() is not None and not w.scheduler.has_work(w.now_s), "the engine waits for a command"
    w.loop.apply([Allow(1, 6)])
    assert w.loop.patience_s() == 0.0
    w.step()
    w.step()
    assert generated(w, 1) == 6
    w.loop.apply([Allow(1, 30)])
    for _ in range(30):
        w.step()
    assert w.scheduler.is_idle


def test_others_go_on_and_get_its_time() -> None:
    w = world(slots=2)
    submit(w, 1, "held", 100, 3)
    submit(w, 2, "free", 40, None)
    for _ in range(60):
        w.step()
    assert (generated(w, 1), generated(w, 2)) == (3, -1), "the other has ended"


def test_one_that_may_generate_nothing_yet_is_not_even_read() -> None:
    w = world(slots=2)
    submit(w, 1, "acme", 10, 0)
    for _ in range(5):
        w.step()
    assert w.scheduler._jobs[1].computed == 0


def test_it_can_be_cancelled_and_unknown_requests_are_ignored() -> None:
    w = world(slots=2)
    submit(w, 1, "acme", 10, 1)
    for _ in range(5):
        w.step()
    w.loop.apply([Allow(99, 5)])
    w.cancel(1)
    w.step()
    assert w.finishes == {1: FinishReason.CANCELLED}
    assert w.scheduler.is_idle


def test_what_is_submitted_again_after_a_crash_stops_where_it_would_have() -> None:
    w = world(slots=2)
    again = Submit(
        request=1,
        tenant="acme",
        prompt=[65, 66, 67],
        generated=[101, 102, 103],
        max_tokens=30,
        allowed_tokens=5,
        sampling=1,
    )
    w.submits[1] = again
    w.loop.apply([SetSampling(1, Sampling(ignore_eos=True)), again])
    for _ in range(20):
        w.step()
    assert generated(w, 1) == 5


@given(st.integers(0, 2**32))
@examples(40)
def test_whatever_else_happens_nothing_is_generated_that_was_not_allowed_and_everything_ends(seed: int) -> None:
    rng = random.Random(seed)
    w = world(slots=rng.choice((1, 2, 4)))
    allowed: dict[int, int] = {}
    for request in range(rng.randrange(1, 16)):
        w.submit(request, rng.choice("abc"), rng.randrange(1, 40), rng.randrange(1, 30))
        if rng.random() < 0.7:
            allowed[request] = rng.randrange(4)
            w.loop.apply([Allow(request, allowed[request])])
    for _ in range(3_000):
        if w.scheduler.is_idle:
            break
        w.step()
        for request, most in allowed.items():
            assert len(w.tokens[request]) <= most
            if request not in w.finishes and rng.random() < 0.5:
                allowed[request] = most + rng.randrange(3)
                w.loop.apply([Allow(request, allowed[request])])
    assert w.scheduler.is_idle and set(w.finishes.values()) <= {FinishReason.LENGTH}
