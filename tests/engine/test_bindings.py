"""Each entry of a pass is its request's own, and says so on the way back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tenantd.engine.compute import Chunk, EngineBroken, PassResult
from tenantd.engine.passes import Plan
from tenantd.wire.messages import Finish, Step
from tests.engine.world import World, world
from tests.support.copies import ROOT


def two_running() -> World:
    """Requests 0 and 1 of two tenants, which decode."""
    w = world(slots=4)
    w.submit(0, "acme", prompt=5, output=20)
    w.submit(1, "globex", prompt=5, output=20)
    while len(w.tokens[0]) < 2 or len(w.tokens[1]) < 2:
        w.step()
    return w


def other_request(chunk: Chunk, other: Chunk) -> Chunk:
    return chunk._replace(request=other.request)


def other_sequence(chunk: Chunk, other: Chunk) -> Chunk:
    return chunk._replace(sequence=other.sequence)


def other_tokens(chunk: Chunk, other: Chunk) -> Chunk:
    return chunk._replace(tokens=other.tokens)


def other_position(chunk: Chunk, other: Chunk) -> Chunk:
    return chunk._replace(position=chunk.position - 1)


def nobodys(chunk: Chunk, other: Chunk) -> Chunk:
    return chunk._replace(request=99)


def free_sequence(chunk: Chunk, other: Chunk) -> Chunk:
    return chunk._replace(sequence=3)


MIXED_UP = [other_request, other_sequence, other_tokens, other_position, nobodys, free_sequence]


@pytest.mark.parametrize("mix_up", MIXED_UP)
def test_a_plan_that_mixes_up_requests_is_not_run(mix_up: Callable[[Chunk, Chunk], Chunk]) -> None:
    w = two_running()
    plan, ran = w.scheduler.plan(w.now_s), w.compute.run
    [first, second] = plan.chunks
    assert first.tokens != second.tokens
    w.scheduler.check_plan(plan)
    w.scheduler.plan = lambda now_s: Plan([], [mix_up(first, second), second])  # type: ignore[method-assign]
    passes: list[list[Chunk]] = []
    w.compute.run = lambda chunks: passes.append(chunks) or ran(chunks)  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(EngineBroken):
        w.loop.step()
    assert not passes


WITHOUT_ASSERTIONS = """
from tenantd.engine.compute import EngineBroken
from tenantd.engine.kv.slots import Slots
from tenantd.engine.passes import Plan
from tests.engine.test_bindings import MIXED_UP, two_running

if __debug__:
    raise SystemExit("assertions are on")

def is_caught(action):
    try:
        action()
    except EngineBroken:
        return True
    return False

slots = Slots(2)
sequence = slots.take(7)
print(is_caught(lambda: slots.release(sequence, 8)))
w = two_running()
[first, second] = w.scheduler.plan(w.now_s).chunks
for mix_up in MIXED_UP:
    print(is_caught(lambda: w.scheduler.check_plan(Plan([], [mix_up(first, second), second]))))
print(is_caught(lambda: w.compute.run([first._replace(request=second.request)])))
w.scheduler.slots.owners[0] = None
w.compute.clear(0)
w.compute.clear(1)
w.compute._length[3] = 1
print(is_caught(lambda: w.compute.bind(3, w.samplings[0], [], [])))
"""


def test_the_checks_need_no_assertions() -> None:
    command = [sys.executable, "-O", "-c", WITHOUT_ASSERTIONS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, set(done.stdout.split())) == (0, {"True"}), done.stderr
    assert len(done.stdout.split()) == len(MIXED_UP) + 3


def test_what_was_computed_for_another_request_is_not_booked() -> None:
    w = two_running()
    plan = w.scheduler.plan(w.now_s)
    [first, second] = plan.chunks
    result = w.compute.run(plan.chunks)
    with pytest.raises(EngineBroken):
        w.scheduler.commit(Plan([], [first._replace(request=1), second]), result, w.now_s, lambda: None)


def told(w: World) -> list[Step]:
    """Every step until nothing is left."""
    steps: list[Step] = []
    while w.has_work or not w.scheduler.is_idle:
        steps.append(w.loop.step())
    return steps


def check_told(steps: list[Step]) -> dict[int, list[int]]:
    """What is reported has a binding that was told before or with it, and each is new. By request, its bindings."""
    bindings: dict[int, list[int]] = {}
    last = 0
    for step in steps:
        new = []
        for request, binding in step.bound or ():
            mine = bindings.setdefault(request, [])
            if binding not in mine:
                assert binding > last, "it never repeats"
                mine.append(binding)
                new.append(binding)
        assert len(new) == len(set(new))
        last = max(new, default=last)
        for one in [*step.progress, *step.finishes]:
            assert one.binding == (bindings[one.request][-1] if one.request in bindings else None)
    return bindings


def test_every_binding_is_told_before_anything_is_reported_with_it() -> None:
    w = world(slots=2)
    for request in range(12):
        w.submit(request, f"t{request % 3}", prompt=3 + request, output=1 + request % 4)
    w.submit(12, "t0", prompt=4, output=9, grammar="broken")  # refused in the step in which it is bound
    w.submit(13, "t0", prompt=600, output=9)  # ends without a sequence
    w.cancel(11)
    steps = told(w)
    bindings = check_told(steps)
    finishes = {finish.request: finish for step in steps for finish in step.finishes}
    assert finishes[13].binding is None and finishes[12].binding == bindings[12][0]
    assert set(finishes) == set(range(14)) and set(bindings) >= set(range(11))


def test_a_request_that_gave_way_comes_back_with_a_new_binding_and_a_moved_one_keeps_its_own() -> None:
    w = world(slots=2, swap_bytes=1 << 20)
    for request in range(4):
        w.submit(request, "acme", prompt=10, output=120)
    steps = [w.loop.step() for _ in range(30)]
    for request in range(4, 8):
        w.submit(request, "globex", prompt=10, output=20)
    steps += told(w)
    assert sum(step.swaps for step in steps), "some gave way"
    assert max(map(len, check_told(steps).values())) > 1


def test_moves_are_planned_only_together_with_a_pass() -> None:
    """They take effect with a pass; a request may be swapped out before the next one."""
    w = world(slots=4)
    w.share("acme", tokens_per_minute=40)
    w.submit(0, "acme", prompt=3, output=200)
    w.submit(1, "globex", prompt=3, output=60)  # ends when the others have used up their minute
    w.submit(2, "acme", prompt=3, output=200)
    moved = False
    plan = w.scheduler.plan

    def planned(now_s: float) -> Plan:
        nonlocal moved
        made = plan(now_s)
        assert made.chunks or not made.moves
        moved = moved or bool(made.moves)
        return made

    w.scheduler.plan = planned  # type: ignore[method-assign]
    w.run()
    assert moved


def test_a_result_for_a_sequence_that_is_not_in_the_pass_is_nobodys() -> None:
    w = two_running()
    plan = w.scheduler.plan(w.now_s)
    [first, second] = plan.chunks
    result = w.compute.run(plan.chunks)
    mixed = PassResult({**result.sampled, 3: result.sampled[first.sequence]}, result.micros)
    step = w.scheduler.commit(plan, mixed, w.now_s, lambda: None)
    assert {one.request for one in step.progress} == {first.request, second.request}


def test_a_finish_names_the_last_binding_of_a_request_that_ends_while_it_is_swapped_out() -> None:
    w = world(slots=1, swap_bytes=1 << 20)
    w.submit(0, "acme", prompt=10, output=300)
    steps = [w.loop.step() for _ in range(30)]
    w.submit(1, "globex", prompt=10, output=40)
    while not any(step.swaps for step in steps):
        steps.append(w.loop.step())
    w.cancel(0)
    steps += told(w)
    [finish] = [one for step in steps for one in step.finishes if one.request == 0]
    assert isinstance(finish, Finish) and finish.binding == check_told(steps)[0][-1]
