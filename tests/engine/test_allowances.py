"""A request that has generated all it may for the time being is not computed, and costs nobody else anything."""

from __future__ import annotations

from tenantd.domain import FinishReason, Sampling
from tenantd.wire.messages import Allow, SetSampling, Submit
from tests.engine.world import World, world


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
