"""A self-check between requests: what it does to those that run, wait and are cancelled, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenantd.domain import FinishReason, Verdict
from tenantd.engine import interlude
from tenantd.engine.checks import sameness
from tenantd.engine.compute import EngineBroken
from tenantd.engine.loop import Loop
from tenantd.wire.messages import Check, Checked, Checking, EndCheck, Event, Pause, Step
from tests.engine.checks.broken import Holding
from tests.engine.world import World, world
from tests.support.loads import fake_load

CHECK = Check(nonce=7, quick=True)


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a check on the engine without a model takes many of them."""
    monkeypatch.setattr(interlude, "SLICE_S", 0.001)
    monkeypatch.setitem(sameness.TIME_S, True, 0.01)


def scene(**settings: object) -> World:
    return world(slots=4, chunk=64, context_tokens=512, **settings)


def book(w: World, step: Step) -> None:
    assert step.busy_micros == sum(made.micros for made in step.progress) + step.unbilled_micros
    for made in step.progress:
        if made.token >= 0:
            w.tokens[made.request].append(made.token)
    for finish in step.finishes:
        w.finishes[finish.request] = finish.reason


def turns(w: World) -> Iterator[Event]:
    """Turns of the loop until it has nothing to do; the steps are booked."""
    while w.loop.patience_s() is not None:
        for event in w.loop.turn():
            if isinstance(event, Step):
                book(w, event)
            yield event
        w.loop.apply([])


def until_checking(w: World) -> list[Event]:
    events: list[Event] = []
    for event in turns(w):
        events.append(event)
        if isinstance(event, Checking):
            break
    return events


def test_an_idle_engine_checks_at_once_and_is_idle_again() -> None:
    w = scene()
    w.loop.apply([CHECK])
    events = list(turns(w))
    (checked,) = [event for event in events if isinstance(event, Checked)]
    progress = [event for event in events if isinstance(event, Checking)]
    assert events[-1] is checked
    assert {event.nonce for event in [*progress, checked]} == {7}
    assert [event.progress for event in progress] == sorted(event.progress for event in progress)
    assert [result.result for result in checked.results[:3]] == [Verdict.HELD] * 3
    assert len(progress) > 3 and len(progress[-1].results) == 3
    assert sum(event.busy_micros for event in [*progress, checked]) > 0
    assert w.compute.is_empty() and w.loop.patience_s() is None


def test_running_requests_end_first_and_new_ones_wait() -> None:
    w = scene()
    w.submit(0, "a", 8, 5)
    w.step()
    w.loop.apply([CHECK])
    w.submit(1, "a", 8, 5)
    until_checking(w)
    assert w.finishes == {0: FinishReason.LENGTH} and len(w.tokens[0]) == 5
    assert not w.tokens[1]
    for _ in turns(w):
        pass
    assert w.finishes[1] is FinishReason.LENGTH and len(w.tokens[1]) == 5


@pytest.mark.parametrize("swap_bytes", [1 << 30, 0], ids=["kept", "computed-again"])
def test_long_requests_give_way_and_resume_at_the_exact_next_token(swap_bytes: int) -> None:
    alone = scene()
    for request in range(3):
        alone.submit(request, "ab"[request % 2], 8 + request, 100)
    while alone.has_work:
        alone.step()
    w = scene(swap_bytes=swap_bytes)
    for request in range(3):
        w.submit(request, "ab"[request % 2], 8 + request, 100)
    for _ in range(20):
        w.step()
    before = {request: len(tokens) for request, tokens in w.tokens.items()}
    w.loop.apply([CHECK])
    w.now_s += interlude.PATIENCE_S
    events = until_checking(w)
    assert {request: len(tokens) for request, tokens in w.tokens.items()} == before, "it is over at once"
    assert sum(event.swaps + event.recomputes for event in events if isinstance(event, Step)) == 3
    for _ in turns(w):
        pass
    assert w.tokens == alone.tokens
    assert set(w.finishes.values()) == {FinishReason.LENGTH}


def test_requests_that_may_not_get_a_token_now_do_not_hold_it_up() -> None:
    w = scene()
    w.share("a", tokens_per_minute=10)
    w.submit(0, "a", 8, 50)
    for _ in range(5):
        w.step()
    w.loop.apply([CHECK])
    w.now_s += interlude.PATIENCE_S
    assert isinstance(until_checking(w)[-1], Checking)


def test_a_cancelled_request_ends_in_the_middle_of_a_check() -> None:
    w = scene()
    for request in range(2):
        w.submit(request, "a", 8, 100)
    for _ in range(5):
        w.step()
    w.loop.apply([CHECK])
    w.now_s += interlude.PATIENCE_S
    until_checking(w)
    w.cancel(0)
    until_checking(w)
    assert w.finishes == {0: FinishReason.CANCELLED}


def test_a_check_that_is_ended_gives_way_to_requests_and_to_the_next_check() -> None:
    w = scene()
    w.submit(0, "a", 8, 50)
    w.loop.apply([CHECK])
    until_checking(w)
    w.loop.apply([EndCheck(8)])
    assert isinstance(until_checking(w)[-1], Checking), "that was another one's"
    w.loop.apply([EndCheck(7), Check(nonce=8, quick=True)])
    events = list(turns(w))
    assert {event.nonce for event in events if isinstance(event, Checking | Checked)} == {8}
    assert isinstance([event for event in events if not isinstance(event, Step)][-1], Checked)
    assert w.finishes == {0: FinishReason.LENGTH} and w.compute.is_empty()


def test_an_end_that_comes_too_late_or_before_the_beginning_is_nothing() -> None:
    w = scene()
    w.loop.apply([CHECK, EndCheck(7), EndCheck(7)])
    assert list(turns(w)) == []
    w.loop.apply([CHECK])
    list(turns(w))
    w.loop.apply([EndCheck(7)])
    assert w.compute.is_empty()


def test_a_check_runs_while_nothing_can_be_billed() -> None:
    w = scene()
    w.submit(0, "a", 8, 50)
    w.step()
    w.loop.apply([Pause(True)])
    w.loop.apply([CHECK])
    w.now_s += interlude.PATIENCE_S
    for event in turns(w):
        if isinstance(event, Checked):
            break
    w.loop.apply([Pause(False)])
    for _ in turns(w):
        pass
    assert w.finishes == {0: FinishReason.LENGTH}


def test_an_engine_that_cannot_be_emptied_tells_its_result_and_ends() -> None:
    w = scene()
    broken = Holding(fake_load())
    loop = Loop(w.scheduler, broken)
    loop.apply([CHECK])
    events: list[Event] = []
    with pytest.raises(EngineBroken, match="after a check"):
        while True:
            events.extend(loop.turn())
            loop.apply([])
    (checked,) = [event for event in events if isinstance(event, Checked)]
    assert Verdict.of(result.result for result in checked.results) is Verdict.FAILED
