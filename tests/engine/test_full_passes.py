"""Decoding passes over every sequence: prompts whose next token fills one."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.engine.compute import Chunk
from tenantd.engine.llama import full_pass
from tenantd.engine.passes import SHALLOW_PART, SHALLOW_TOKENS
from tests.engine.world import World, world

LONG = 10


def passes(w: World, steps: int) -> list[list[Chunk]]:
    """Those of so many steps."""
    seen: list[list[Chunk]] = []
    run = w.compute.run

    def watched(chunks: list[Chunk]) -> Any:
        seen.append(chunks)
        return run(chunks)

    w.compute.run = watched  # type: ignore[method-assign]
    for _ in range(steps):
        w.step()
    return seen


def beside_a_prompt(*, fills: bool, slots: int = 4, **long: Any) -> World:
    """Three streams of one tenant, and the prompt of another that has used more."""
    w = world(slots=slots, chunk=16, token_micros=500, fills=fills, target_itl_ms=1, max_stall_ms=200)
    w.fairness.charge("late", 10_000, 0)
    for request in range(3):
        w.submit(request, "early", 4, 200)
    for _ in range(4):
        w.step()
    w.submit(LONG, "late", 300, 4, **long)
    return w


def mixed(w: World) -> list[list[Chunk]]:
    found = [sorted(chunks) for chunks in passes(w, 60)]
    return [chunks for chunks in found if {chunk.request for chunk in chunks} > {LONG}]


def test_a_prompt_gives_a_token_to_each_pass_that_it_fills() -> None:
    full = mixed(w := beside_a_prompt(fills=True))
    assert len(full) > 20
    for chunks in full:
        assert [chunk.sequence for chunk in chunks] == [0, 1, 2, 3]
        assert all(len(chunk.tokens) == 1 for chunk in chunks)
        assert [chunk.sample for chunk in chunks] == [chunk.request != LONG for chunk in chunks]
    plain = beside_a_prompt(fills=False)
    assert not mixed(plain)
    w.run()
    plain.run()
    assert w.tokens == plain.tokens and w.prefilled == plain.prefilled


@pytest.mark.parametrize("slots", [5, 8])
def test_passes_that_it_would_not_fill_get_none(slots: int) -> None:
    assert not mixed(beside_a_prompt(fills=True, slots=slots))


@pytest.mark.parametrize("streams_tokens", [4, 1_000])
def test_a_prompt_of_which_much_is_computed_gives_none(streams_tokens: int) -> None:
    """A token of it would attend to all of that."""
    w = world(slots=4, context_tokens=4_096, chunk=16, token_micros=500, fills=True, target_itl_ms=1, max_stall_ms=200)
    for request in range(3):
        w.submit(request, "early", streams_tokens, 3_000)
    while not w.tokens[2]:
        w.step()
    w.fairness.charge("late", 10**6, 0)
    w.submit(LONG, "late", 2_000, 4)
    seen = passes(w, 2_500)
    starts = [{chunk.request: chunk.position for chunk in chunks} for chunks in seen]
    mixed = [each for each in starts if len(each) == 4 and each[LONG] < 2_000]
    behind = [(each.pop(LONG), sum(each.values())) for each in mixed]
    assert behind and all(late <= max(SHALLOW_TOKENS, early // SHALLOW_PART) for late, early in behind)
    furthest = max(late for late, _ in behind)
    assert furthest > SHALLOW_TOKENS // 2, "it gives tokens at first"
    assert max(each.get(LONG, 0) for each in starts) > furthest, "and goes on as any other prompt"
    if streams_tokens > SHALLOW_TOKENS:
        assert furthest > SHALLOW_TOKENS, "beside long ones, for longer"


def test_a_tenant_with_a_limit_of_tokens_per_minute_gives_none() -> None:
    w = beside_a_prompt(fills=True)
    w.share("late", tokens_per_minute=5_000)
    assert not mixed(w)


def test_a_prompt_with_another_adapter_gives_none() -> None:
    w = world(slots=4, chunk=16, token_micros=500, fills=True, target_itl_ms=1, max_stall_ms=200)
    w.adapters = {"late": "x"}
    w.fairness.charge("late", 10_000, 0)
    for request in range(3):
        w.submit(request, "early", 4, 200)
    for _ in range(4):
        w.step()
    w.submit(LONG, "late", 300, 4)
    assert not mixed(w)


@pytest.mark.parametrize(
    ("slots", "full", "less", "is_faster"),
    [
        (8, 70_000, 100_000, True),
        (8, 70_000, 71_000, False),
        (8, 100_000, 90_000, False),
        (8, 500, 1_000, False),  # a toy
        (4, 70_000, 100_000, False),
        (6, 70_000, 100_000, False),
    ],
)
def test_whether_a_full_pass_is_faster_is_measured(monkeypatch, slots, full, less, is_faster) -> None:
    monkeypatch.setattr(full_pass, "_micros", lambda batch, cells, count: full if count == slots else less)
    assert full_pass.is_faster_when_full(None, None, slots) is is_faster  # type: ignore[arg-type]
