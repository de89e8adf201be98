"""Prefixes in the way of others: room in the pool, copies that no pass has made yet, states that cannot be restored."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tenantd.engine.compute import Chunk, EngineBroken, Owner, RequestRejected
from tenantd.engine.llama import LlamaCompute
from tenantd.engine.llama.sequences import LlamaKept
from tests.engine.llama.kit import GREEDY, LAYOUTS, Engines, logits
from tests.engine.llama.shapes import LENGTH, NOISE, ROOM, TEXT, Shape, after, compute, farthest, park
from tests.support.device import GPU_LAYERS
from tests.support.tiny_gguf import write_tiny_lora

CONTEXT = 512
ADDS_BY_CELL = ("gemma2", "jamba") if GPU_LAYERS else ("gemma2",)
"""Models of which a neighbour gets other cells of the pool, in the order of which its attention adds up. Of jamba's, a
CPU leaves out the masked ones, and a device adds up all."""


def keep(engine: LlamaCompute, sequence: int, owner: Owner, prefix: int) -> LlamaKept:
    kept = engine.save(sequence, owner, prefix, ROOM)
    assert kept is not None
    return kept


def test_copies_leave_every_sequence_its_whole_context(shape: Shape) -> None:
    """A shared cell outside a window would stay taken."""
    engine = shape.make()
    park(engine, 0, TEXT[:LENGTH], 1)
    for target in (1, 2, 3):
        assert engine.copy(0, target, Owner("prefix", 1), target + 1, LENGTH)
    done = LENGTH
    for sequence in range(4):
        engine.bind(sequence, GREEDY, [], [], request=sequence, prefix=sequence + 1)
    while done < CONTEXT:
        size = min(16, CONTEXT - done)
        chunks = [Chunk(s, done, [50 + s] * size, True, s) for s in range(4)]
        assert not any(sampled.failed for sampled in engine.run(chunks).sampled.values()), f"at {done}"
        done += size


def test_parked_prefixes_leave_a_request_its_whole_context(shape: Shape) -> None:
    engine = shape.make()
    for sequence in range(3):
        park(engine, sequence, TEXT[:CONTEXT] if sequence else TEXT[:LENGTH], sequence + 1)
    engine.bind(3, GREEDY, [], [], request=9)
    compute(engine, 3, 9, TEXT[:CONTEXT])
    engine.clear(3)
    assert farthest(after(engine, 0, LENGTH, 1), after(engine, 0, LENGTH)) < NOISE


def test_a_prefix_goes_on_although_others_took_what_left_its_window(shape: Shape) -> None:
    engine = shape.make()
    least = max(1, park(engine, 0, TEXT[:LENGTH], 1))
    for sequence in (1, 2, 3):
        engine.bind(sequence, GREEDY, [], [], request=sequence)
        compute(engine, sequence, sequence, (TEXT * 2)[:CONTEXT])
        engine.clear(sequence)
    kept = keep(engine, 0, Owner("prefix", 1), 2)
    is_cut = engine.cut(0, 1, least)
    assert is_cut == (shape.kv == "streams" or shape.architecture != "gemma2")
    assert engine.holds_only({0: 1} if is_cut else {})
    engine.clear(0)
    assert engine.restore(0, kept)
    assert farthest(after(engine, 0, LENGTH, 2), after(engine, 0, LENGTH)) < NOISE


# ---- copies that no pass has made yet ------------------------------------------------------------------------------


@pytest.mark.parametrize("scrub", [True, False])
@pytest.mark.parametrize("length", [LENGTH, CONTEXT], ids=["part", "full"])
def test_a_copy_can_be_kept_at_once_also_if_no_sequence_is_empty(shape: Shape, length: int, scrub: bool) -> None:
    text = (TEXT * 2)[:length]
    engine = shape.make(scrub=scrub)
    park(engine, 3, text, 1)
    expected = state_of(keep(engine, 3, Owner("prefix", 1), 2))
    engine = shape.make(scrub=scrub)
    park(engine, 3, TEXT[::-1], 9)  # its cells are those that the copy replaces
    engine.clear(3)
    park(engine, 0, text, 1)
    for target in (1, 2, 3):
        assert engine.copy(0, target, Owner("prefix", 1), target + 1, length)
    found = keep(engine, 3, Owner("prefix", 4), 5)
    assert engine.holds_only({0: 1, 1: 2, 2: 3, 3: 4})
    assert state_of(found) == expected
    assert state_of(keep(engine, 3, Owner("prefix", 4), 6)) == expected


def state_of(kept: LlamaKept) -> bytes:
    return ctypes.string_at(kept.state.address, kept.size_bytes)


def test_what_a_copy_makes_llama_cpp_do_changes_no_bit_of_a_neighbour(shape: Shape) -> None:
    """Without an empty sequence, copies are made by a token at the end of somebody else's."""
    found = []
    for copies in (False, True):
        engine = shape.make()
        engine.bind(1, GREEDY, [], [], request=8)
        compute(engine, 1, 8, TEXT[50:150])
        park(engine, 0, TEXT[:LENGTH], 1)
        if copies:
            for target in (2, 3):
                assert engine.copy(0, target, Owner("prefix", 1), target, LENGTH)
            keep(engine, 3, Owner("prefix", 3), 7)
        rows = []
        for position in range(100, 140):
            engine.run([Chunk(1, position, [position], True, 8)])
            rows.append(logits(engine, 0).copy())
        found.append(np.array(rows))
    without, with_copies = found
    gets_other_cells = shape.kv == "unified" and shape.architecture in ADDS_BY_CELL
    if gets_other_cells:
        assert farthest(without, with_copies) < NOISE
    else:
        assert without.tobytes() == with_copies.tobytes()


def test_a_source_that_changes_at_once_leaves_its_copy_as_it_was(shape: Shape) -> None:
    engine = shape.make()
    for change in ("clear", "clear and restore", "compute", "move"):
        park(engine, 0, TEXT[:LENGTH], 1)
        kept = keep(engine, 0, Owner("prefix", 1), 3)
        park(engine, 1, TEXT[::-1][:LENGTH], 4)
        other = keep(engine, 1, Owner("prefix", 4), 5)
        engine.clear(1)
        assert engine.copy(0, 1, Owner("prefix", 1), 2, LENGTH)
        if change == "move":
            engine.move(0, 2)
            engine.clear(2)
        elif change == "compute":
            engine.bind(0, GREEDY, [], [], request=7, prefix=1)
            engine.run([Chunk(0, LENGTH, [5, 6, 7], True, 7)])
            engine.clear(0)
        else:
            engine.clear(0)
            if change == "clear and restore":
                assert engine.restore(0, other)
                engine.clear(0)
        assert farthest(after(engine, 1, LENGTH, 2), after(engine, 3, LENGTH)) < NOISE, change
        kept.free()
        other.free()
        assert engine.is_empty()


# ---- states that cannot be restored ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scrub", [True, False])
def test_a_state_that_llama_cpp_refuses_leaves_the_sequence_empty_and_the_rest_as_it_was(
    shape: Shape, scrub: bool
) -> None:
    engine = shape.make(scrub=scrub)
    park(engine, 0, TEXT[:LENGTH], 1)
    kept = keep(engine, 0, Owner("prefix", 1), 2)
    state = state_of(kept)
    for at in (0, 3, 8, 12, 16):  # its mark, its shape, its positions
        ctypes.memset(kept.state.address + at, 0xFF, 4)
        try:
            if engine.restore(1, kept):
                engine.clear(1)
        except EngineBroken:
            engine = shape.make(scrub=scrub)
            park(engine, 0, TEXT[:LENGTH], 1)
        assert engine.holds_only({0: 1})
        ctypes.memmove(kept.state.address, state, len(state))
    ctypes.memset(kept.state.address, 0xFF, 4)
    assert not engine.restore(1, kept)
    assert farthest(after(engine, 1, LENGTH), after(engine, 0, LENGTH, 1)) < NOISE
    assert engine.is_empty()


def test_without_memory_nothing_is_kept_or_copied_and_the_prefix_stays(
    shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shape.make()
    park(engine, 0, TEXT[:LENGTH], 1)

    def none(size_bytes: int) -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr("tenantd.engine.llama.cells.LockedMemory", none)
    assert engine.save(0, Owner("prefix", 1), 2, ROOM) is None
    needs_none = shape.architecture == "llama" or (shape.architecture == "gemma2" and shape.kv == "streams")
    assert engine.copy(0, 1, Owner("prefix", 1), 2, LENGTH) == needs_none
    assert engine.holds_only({0: 1, 1: 2} if needs_none else {0: 1})
    monkeypatch.undo()
    assert farthest(after(engine, 0, LENGTH, 1), after(engine, 0, LENGTH)) < NOISE


def test_a_cut_that_cannot_be_overwritten_for_lack_of_memory_is_none(
    make: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(scrub=True)
    park(engine, 0, TEXT[:100], 1)

    def none(size_bytes: int) -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr("tenantd.engine.llama.cells.LockedMemory", none)
    assert not engine.cut(0, 1, 50)
    assert engine.is_empty()


# ---- adapters that are replaced --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", LAYOUTS)
def test_a_prefix_stays_with_the_file_that_it_was_computed_with(make: Engines, tmp_path: Path, kv: str) -> None:
    """The new one is as large and as old as the one that it replaces."""
    path = tmp_path / "adapter.gguf"
    one, other = (write_tiny_lora(tmp_path / f"{seed}.gguf", seed=seed) for seed in (1, 2))
    shutil.copy(one, path)
    engine = make(kv=kv)

    rows: list[bytes] = []
    engine.on_logits = lambda _, row: rows.append(bytes(row))

    def answer(done: int, prefix: int = 0) -> bytes:
        sequence = 0 if prefix else 1
        engine.bind(sequence, GREEDY, [], [], str(path), request=9, prefix=prefix)
        compute(engine, sequence, 9, TEXT[:60], done)
        engine.clear(sequence)
        return rows[-1]

    first, whole = engine.adapter_version(str(path)), answer(0)
    engine.bind(0, GREEDY, [], [], str(path), request=7)
    compute(engine, 0, 7, TEXT[:50])
    engine.park(0, 7, 1)
    kept = keep(engine, 0, Owner("prefix", 1), 2)
    status = path.stat()
    shutil.copy(other, tmp_path / "new")
    os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(tmp_path / "new", path)
    assert path.stat().st_size == status.st_size
    assert engine.adapter_version(str(path)) != first
    assert answer(0) != whole
    assert answer(50, prefix=1) == whole
    path.unlink()
    with pytest.raises(RequestRejected):
        engine.adapter_version(str(path))
    assert engine.restore(0, kept)
    assert answer(50, prefix=2) == whole
