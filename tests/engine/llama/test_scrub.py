"""With `scrub`, the bytes of a released sequence are gone from the memory where they were; without, they stay there."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from tenantd.engine.compute import Chunk
from tenantd.engine.llama import LlamaCompute, locked
from tenantd.engine.llama.locked import LockedMemory
from tests.engine.llama.kit import GREEDY, LAYOUTS, Engines, logits, prompt
from tests.engine.llama.shapes import farthest
from tests.engine.llama.traces import Traces, fill, unlike_before
from tests.support.device import LOGITS_NOISE

Row = np.ndarray[Any, Any]


def release(engine: LlamaCompute, how: str) -> None:
    """Take request 1 off its sequence."""
    if how == "clear":
        engine.clear(1)
    elif how == "swap_out":
        engine.swap_out(1, 0)
    else:
        engine.move(1, 3)


@pytest.mark.parametrize("kv", LAYOUTS)
@pytest.mark.parametrize("how", ["clear", "swap_out", "move"])
@pytest.mark.parametrize("scrub", [True, False])
def test_what_a_sequence_held_is_overwritten_while_others_run_on(make: Engines, kv: str, how: str, scrub: bool) -> None:
    engine = make(kv=kv, scrub=scrub)
    for sequence in range(3):
        fill(engine, sequence, unlike_before())
    traces = Traces(engine, 1)
    release(engine, how)
    engine.run([Chunk(0, 40, [5], True, 0), Chunk(2, 40, [5], True, 2)])
    stays = how == "move" and kv == "unified"  # nothing is copied there: the cells only change hands
    assert (traces.left() == 0) == (scrub and not stays)
    if how == "move":
        engine.clear(3)
        engine.run([Chunk(0, 41, [5], True, 0)])
        assert (traces.left() == 0) == scrub


@pytest.mark.parametrize("kv", LAYOUTS)
def test_an_idle_engine_has_overwritten_everything(make: Engines, kv: str) -> None:
    engine = make(kv=kv, scrub=True)
    for sequence in range(4):
        fill(engine, sequence, unlike_before())
    traces = [Traces(engine, sequence) for sequence in range(4)]
    for sequence in range(4):
        engine.clear(sequence)
    assert engine.is_empty()
    assert [trace.left() for trace in traces] == [0] * 4


@pytest.mark.parametrize("kv", LAYOUTS)
def test_a_state_that_comes_back_is_whole_whatever_was_overwritten_before(make: Engines, kv: str) -> None:
    """A pending copy over the cells of a sequence would destroy what is restored there."""
    rows = []
    for scrub in (False, True):
        engine = make(kv=kv, scrub=scrub)
        fill(engine, 0, seed=1)
        fill(engine, 1, seed=2)
        swapped = engine.swap_out(0, 1 << 30)
        fill(engine, 0, seed=3)
        engine.clear(0)
        assert engine.swap_in(0, swapped, 0)
        engine.run([Chunk(0, 40, [7], True, 0), Chunk(1, 40, [7], True, 1)])
        rows.append([logits(engine, 0).copy(), logits(engine, 1).copy()])
    assert are_same(*rows, in_pool=kv == "unified")


def are_same(one: list[Row], other: list[Row], *, in_pool: bool) -> bool:
    """Whether the logits are, to the bit. In the pool of a device, they are the same but for its noise: it adds up in
    the order of the cells, and what is restored gets other ones."""
    if in_pool and LOGITS_NOISE:
        return farthest(np.array(one), np.array(other)) < LOGITS_NOISE
    return [row.tobytes() for row in one] == [row.tobytes() for row in other]


@pytest.mark.parametrize("kv", LAYOUTS)
@pytest.mark.parametrize("scrub", [True, False])
def test_what_is_restored_is_what_was_saved_to_the_bit(make: Engines, kv: str, scrub: bool) -> None:
    engine = make(kv=kv, scrub=scrub)
    fill(engine, 0, seed=1)
    fill(engine, 1, seed=2)
    swapped, neighbour = engine.swap_out(0, 1 << 30), state_of(engine, 1)
    assert swapped.state is not None
    saved = ctypes.string_at(swapped.state.address, swapped.size_bytes)
    fill(engine, 0, seed=3)
    engine.clear(0)
    assert engine.swap_in(0, swapped, 0)
    assert state_of(engine, 0) == saved and state_of(engine, 1) == neighbour


def state_of(engine: LlamaCompute, sequence: int) -> bytes:
    state = engine._cells.save(sequence, 1 << 30)
    assert state is not None
    found = ctypes.string_at(state.address, state.size_bytes)
    state.wipe()
    return found


@pytest.mark.parametrize("kv", LAYOUTS)
def test_scrubbing_changes_no_bit_of_what_others_get(make: Engines, kv: str) -> None:
    results = []
    for scrub in (False, True):
        engine = make(kv=kv, scrub=scrub)
        fill(engine, 0, seed=1)
        rows = []
        for position in range(40, 46):
            fill(engine, 1, seed=position)
            engine.clear(1)
            engine.run([Chunk(0, position, [position], True, 0)])
            rows.append(logits(engine, 0).tobytes())
        results.append(rows)
    assert results[0] == results[1]


def test_a_slot_is_not_given_up_for_scrubbing(make: Engines) -> None:
    for kv in LAYOUTS:
        for slots in (1, 3):
            engine = make(kv=kv, slots=slots, scrub=True)
            assert engine.info.slots == slots and engine.info.context_tokens == 256
            fill(engine, slots - 1, seed=0)
            engine.clear(slots - 1)
            assert engine.is_empty()


# ---- moves that no pass has made yet -----------------------------------------------------------------------------


@pytest.mark.parametrize("scrub", [True, False])
@pytest.mark.parametrize("kv", LAYOUTS)
def test_what_is_restored_where_a_request_has_just_moved_away_is_not_overwritten(
    make: Engines, kv: str, scrub: bool
) -> None:
    """llama.cpp copies the stream later, and then it would be the restored one."""
    rows = []
    for moves in (False, True):
        engine = make(kv=kv, scrub=scrub)
        fill(engine, 1, seed=1)
        swapped = engine.swap_out(1, 1 << 30)
        fill(engine, 2, seed=2)
        if moves:
            engine.move(2, 0)
            assert engine.swap_in(2, swapped, 1)
            engine.run([Chunk(0, 40, [5], True, 2), Chunk(2, 40, [6], True, 1)])
            rows.append([logits(engine, 0).copy(), logits(engine, 1).copy()])
        else:
            assert engine.swap_in(0, swapped, 1)
            engine.run([Chunk(0, 40, [6], True, 1), Chunk(2, 40, [5], True, 2)])
            rows.append([logits(engine, 1).copy(), logits(engine, 0).copy()])
    assert are_same(*rows, in_pool=kv == "unified")


@pytest.mark.parametrize("scrub", [True, False])
def test_a_moved_request_that_gives_way_comes_back_with_its_own_state(make: Engines, scrub: bool) -> None:
    rows = []
    for moves in (False, True):
        engine = make(scrub=scrub)
        fill(engine, 1, seed=9)
        engine.clear(1)
        fill(engine, 3, seed=1)
        place = 3
        if moves:
            engine.move(3, 1)
            place = 1
        if moves:
            swapped = engine.swap_out(1, 1 << 30)
            assert engine.swap_in(2, swapped, 3)
            place = 2
        engine.run([Chunk(place, 40, [5], True, 3)])
        rows.append(logits(engine, 0).tobytes())
    assert rows[0] == rows[1]


# ---- memory outside the cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", LAYOUTS)
@pytest.mark.parametrize("end", ["used", "dropped"])
def test_a_kept_state_is_overwritten_when_it_is_used_or_dropped(
    make: Engines, watched: list[bytes], kv: str, end: str
) -> None:
    engine = make(kv=kv)
    fill(engine, 0, seed=1)
    swapped = engine.swap_out(0, 1 << 30)
    assert swapped.size_bytes > 0 and not watched
    if end == "used":
        assert engine.swap_in(0, swapped, 0)
    else:
        swapped.free()
    assert watched == [bytes(swapped.size_bytes)]


def test_locked_memory_is_locked_as_far_as_the_limit_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = LockedMemory(1 << 16)
    ctypes.memset(memory.address, 7, 1 << 16)
    assert memory.is_locked, "64 KiB are within every usual limit"
    memory.wipe()
    refused: Any = lambda address, size: -1  # noqa: E731
    monkeypatch.setattr(locked._libc, "mlock", refused)
    memory = LockedMemory(1 << 16)
    assert not memory.is_locked
    memory.wipe()


def test_without_memory_a_state_is_not_kept_and_the_request_goes_on(
    make: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make()
    text = fill(engine, 0, seed=1)

    def none(size_bytes: int) -> LockedMemory:
        raise OSError(12, "no memory")

    monkeypatch.setattr("tenantd.engine.llama.cells.LockedMemory", none)
    swapped = engine.swap_out(0, 1 << 30)
    assert swapped.size_bytes == 0 and engine.is_empty()
    assert not engine.swap_in(1, swapped, 0)
    engine.run([Chunk(1, 0, text[:20], False, 0)])


def test_greedy_is_what_it_was(make: Engines) -> None:
    engines = [make(scrub=scrub) for scrub in (False, True)]
    tokens = []
    for engine in engines:
        text = prompt(20, 4)
        engine.bind(0, GREEDY, text, [])
        tokens.append(engine.run([Chunk(0, 0, text, True)]).sampled[0].token)
    assert tokens[0] == tokens[1]
