"""With `scrub`, what a prefix held is overwritten where it was cut away, cleared or copied too far."""

from __future__ import annotations

import pytest

from tenantd.engine.compute import Chunk, Owner
from tenantd.engine.llama import LlamaCompute
from tests.engine.llama.kit import LAYOUTS, Engines
from tests.engine.llama.shapes import ROOM
from tests.engine.llama.traces import Traces, fill, unlike_before

pytestmark = pytest.mark.parametrize("kv", LAYOUTS)
scrubbed = pytest.mark.parametrize("scrub", [True, False])


def park(engine: LlamaCompute, sequence: int, prefix: int) -> None:
    fill(engine, sequence, unlike_before())
    engine.park(sequence, sequence, prefix)


def make_with_neighbour(make: Engines, kv: str, scrub: bool) -> LlamaCompute:
    """Request 0 runs on sequence 0, and prefix 1 is parked on sequence 1."""
    engine = make(kv=kv, scrub=scrub)
    fill(engine, 0, unlike_before())
    park(engine, 1, 1)
    return engine


def compute(engine: LlamaCompute) -> None:
    """Whatever was to be overwritten is by then."""
    engine.run([Chunk(0, 40, [5], True, 0)])


@scrubbed
def test_what_is_cut_away_is_overwritten(make: Engines, kv: str, scrub: bool) -> None:
    engine = make_with_neighbour(make, kv, scrub)
    traces = Traces(engine, 1)
    assert engine.cut(1, 1, 1)
    compute(engine)
    assert (traces.anywhere() == 0) == scrub
    assert engine.holds_only({1: 1}) is False, "request 0 runs"


@scrubbed
def test_what_was_parked_is_overwritten_once_it_is_cleared(make: Engines, kv: str, scrub: bool) -> None:
    engine = make_with_neighbour(make, kv, scrub)
    traces = Traces(engine, 1)
    compute(engine)
    assert traces.left() > 0
    engine.clear(1)
    engine.run([Chunk(0, 41, [5], True, 0)])
    assert (traces.left() == 0) == scrub


@scrubbed
def test_a_copy_holds_no_more_than_its_part(make: Engines, kv: str, scrub: bool) -> None:
    """In one pool nothing is copied."""
    engine = make_with_neighbour(make, kv, scrub)
    traces = Traces(engine, 1)
    before = traces.anywhere()
    assert engine.copy(1, 2, Owner("prefix", 1), 2, 1)
    compute(engine)
    assert (traces.anywhere() > before) == (kv == "streams" and not scrub)
    engine.clear(1)
    engine.run([Chunk(0, 41, [5], True, 0)])
    assert (traces.anywhere() == 0) == scrub


@scrubbed
def test_of_two_that_share_cells_the_last_has_them_overwritten(make: Engines, kv: str, scrub: bool) -> None:
    engine = make_with_neighbour(make, kv, scrub)
    traces = Traces(engine, 1)
    assert engine.copy(1, 2, Owner("prefix", 1), 2, 40)
    compute(engine)
    engine.clear(1)
    assert traces.anywhere() > 0
    engine.clear(2)
    engine.run([Chunk(0, 41, [5], True, 0)])
    assert (traces.anywhere() == 0) == scrub


@scrubbed
def test_a_restored_prefix_is_overwritten_once_it_is_cleared(make: Engines, kv: str, scrub: bool) -> None:
    engine = make_with_neighbour(make, kv, scrub)
    traces = Traces(engine, 1)
    kept = engine.save(1, Owner("prefix", 1), 2, ROOM)
    assert kept is not None
    assert engine.restore(2, kept)
    kept.free()
    for sequence in (1, 2):
        engine.clear(sequence)
    compute(engine)
    assert (traces.anywhere() == 0) == scrub


@scrubbed
def test_of_a_state_that_ends_too_soon_nothing_is_written(make: Engines, kv: str, scrub: bool) -> None:
    engine = make_with_neighbour(make, kv, scrub)
    traces = Traces(engine, 1)
    kept = engine.save(1, Owner("prefix", 1), 2, ROOM)
    assert kept is not None
    before = traces.anywhere()
    kept.state.size_bytes -= 8  # the last that is read
    assert not engine.restore(2, kept)
    kept.state.size_bytes += 8
    assert traces.anywhere() == before and engine.cut(1, 1, 40)
    compute(engine)
    assert traces.anywhere() == before


def test_a_kept_prefix_is_overwritten_when_it_is_freed_and_not_before(
    make: Engines, watched: list[bytes], kv: str
) -> None:
    engine = make_with_neighbour(make, kv, True)
    kept = engine.save(1, Owner("prefix", 1), 2, ROOM)
    assert kept is not None
    compute(engine)
    watched.clear()
    for sequence in (2, 3):
        assert engine.restore(sequence, kept)
    assert not watched
    kept.free()
    assert watched == [bytes(kept.size_bytes)]


def test_copies_of_states_outside_the_cache_are_overwritten(make: Engines, watched: list[bytes], kv: str) -> None:
    engine = make_with_neighbour(make, kv, True)
    compute(engine)
    watched.clear()
    assert engine.cut(1, 1, 20)
    engine.clear(1)
    engine.run([Chunk(0, 41, [5], True, 0)])
    assert watched and not any(map(any, watched))
