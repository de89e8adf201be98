"""What requests hold in slots, and how often they give them up: reported with their end, and once a second."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenantd.wire.messages import Finish, Step
from tests.engine.world import World, scenarios, world

MILLI = 1000  # of a step


def finishes(w: World, steps: int = 10_000) -> dict[int, Finish]:
    found: dict[int, Finish] = {}
    while (w.has_work or not w.scheduler.is_idle) and steps:
        found |= {finish.request: finish for finish in w.loop.step().finishes}
        steps -= 1
    return found


def test_a_token_counts_from_the_step_that_computed_it_to_the_end() -> None:
    w = world(slots=1, chunk=16)
    w.submit(1, "a", prompt=32, output=3)
    # after the steps of 1 ms: 16, 32 and the first token, 33 and the second, the third: the end
    assert finishes(w)[1].kv_token_micros == (16 + 32 + 33) * MILLI


def test_who_never_had_a_slot_held_nothing() -> None:
    w = world(slots=1)
    w.submit(1, "a", prompt=4, output=100)
    w.step()
    w.submit(2, "a", prompt=4, output=4)
    w.cancel(2)
    [finish] = w.loop.step().finishes
    assert (finish.request, finish.binding, finish.kv_token_micros, finish.swaps) == (2, None, 0, 0)


def test_the_slot_is_given_in_the_step_that_tells_it() -> None:
    w = world(slots=1)
    w.submit(1, "a", prompt=4, output=2)
    w.submit(2, "a", prompt=4, output=2)
    first, second, third = (w.loop.step() for _ in range(3))
    assert first.given == {1: (0, MILLI)} and second.given is None and third.given == {2: (0, MILLI)}


def test_what_is_held_is_reported_once_a_second() -> None:
    w = world(slots=1, min_run_tokens=8)
    w.submit(1, "a", prompt=16, output=400)
    w.step()
    told: list[Step] = []
    w.submit(2, "b", prompt=16, output=400)
    w.submit(3, "c", prompt=16, output=400)
    for _ in range(1100):
        if (step := w.loop.step()).held is not None and not w.scheduler.is_idle:
            told.append(step)
    [step] = told
    assert step.held is not None
    held = {request: (kv_token_micros, swaps) for request, kv_token_micros, swaps in step.held}
    assert held.keys() <= {1, 2, 3} and all(kv > 16 * 100 * MILLI for kv, _ in held.values())
    assert sum(swaps for _, swaps in held.values()) > 0


class Observed:
    """Adds up, pass by pass, what is in the slots while it is computed, and who gives one up."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.kv_token_micros: Counter[int] = Counter()
        self.swaps: Counter[int] = Counter()
        self._run, self._swap_out = w.compute.run, w.compute.swap_out
        compute: Any = w.compute
        compute.run, compute.swap_out = self.run, self.swap_out

    def run(self, chunks: Any) -> Any:
        held = {job.submit.request: job.computed for job in self.w.scheduler._active.values()}
        before_s = self.w.now_s
        result = self._run(chunks)
        self.pass_by(held, self.w.now_s - before_s)
        return result

    def pass_by(self, held: dict[int, int], seconds: float) -> None:
        for request, tokens in held.items():
            self.kv_token_micros[request] += round(tokens * seconds * 1e6)

    def swap_out(self, sequence: int, room_bytes: int) -> Any:
        self.swaps[self.w.scheduler._active[sequence].submit.request] += 1
        return self._swap_out(sequence, room_bytes)

    def idle(self, seconds: float) -> None:
        self.pass_by({job.submit.request: job.computed for job in self.w.scheduler._active.values()}, seconds)
        self.w.now_s += seconds


@scenarios
@given(
    requests=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=12
    ),
    pauses=st.lists(st.integers(0, 20), max_size=20),
    cancelled=st.sets(st.integers(0, 11), max_size=3),
    slots=st.integers(1, 3),
    swap_bytes=st.sampled_from([0, 500, 1 << 30]),
)
def test_what_is_reported_is_what_was_there(requests, pauses, cancelled, slots, swap_bytes):
    """However often requests give their slots up, with and without their state, and however long the engine pauses."""
    w = world(slots, chunk=8, swap_bytes=swap_bytes, min_run_tokens=2)
    observed, found = Observed(w), {}
    for number, (tenant, prompt, output) in enumerate(requests):
        w.submit(number, tenant, prompt, output)
        for pause_ms in pauses[number : number + 2]:
            found |= {finish.request: finish for finish in w.loop.step().finishes}
            observed.idle(pause_ms / 1000)
        if number in cancelled:
            found |= {finish.request: finish for finish in w.loop.step().finishes}
            w.cancel(number)
    found |= finishes(w)
    assert found.keys() == w.submits.keys()
    for request, finish in found.items():
        assert abs(finish.kv_token_micros - observed.kv_token_micros[request]) <= 100, "but for rounding"
        assert finish.swaps == observed.swaps[request]
