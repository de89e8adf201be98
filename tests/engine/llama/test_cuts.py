"""A cut, copied or restored sequence goes on as if it had never held more, whatever the model keeps of the past."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest

from tenantd.engine.compute import Owner
from tests.engine.llama.kit import LAYOUTS, Engines
from tests.engine.llama.shapes import CHUNK, LENGTH, NOISE, ROOM, TEXT, Shape, after, farthest, park
from tests.support.tiny_gguf import WINDOW_TOKENS


def lengths(least: int) -> list[int]:
    """Where a cut may go wrong: at both ends, on either side of the least, at the ends of passes and between them."""
    near = {least + away for away in (-2, -1, 0, 1, 2)} | {1, 2, LENGTH - 2, LENGTH - 1, LENGTH}
    return sorted(n for n in near | set(range(17, LENGTH, 37)) | set(range(CHUNK, LENGTH, CHUNK)) if 0 < n <= LENGTH)


# ---- cuts ---------------------------------------------------------------------------------------------------------


def test_a_prefix_is_cut_to_what_its_tokens_alone_give_or_not_at_all(shape: Shape) -> None:
    engine = shape.make()
    least = park(engine, 0, TEXT[:LENGTH], 1)
    assert least == {"llama": 0, "gemma2": least, "mamba": LENGTH, "jamba": LENGTH}[shape.architecture]
    for length in lengths(least):
        is_cut = engine.cut(0, 1, length)
        assert is_cut == (length >= least), f"{length} tokens"
        assert engine.holds_only({0: 1} if is_cut else {})
        if is_cut:
            found = after(engine, 0, length, 1)
            alone = after(engine, 0, length)
            assert farthest(found, alone) < NOISE, f"{length} tokens"
            if shape.architecture == "llama" and length % CHUNK == 0:
                assert found.tobytes() == alone.tobytes(), f"{length} tokens, between two passes"
        assert engine.is_empty()
        park(engine, 0, TEXT[:LENGTH], 1)


def test_a_part_is_copied_as_what_its_tokens_alone_give_or_not_at_all(shape: Shape) -> None:
    engine = shape.make()
    least = park(engine, 0, TEXT[:LENGTH], 1)
    if shape.kv == "unified" and shape.architecture == "gemma2":
        least = LENGTH - 1  # a state is copied
    for length in lengths(least):
        is_copied = engine.copy(0, 2, Owner("prefix", 1), 3, length)
        assert is_copied == (length >= least), f"{length} tokens"
        assert engine.holds_only({0: 1, 2: 3} if is_copied else {0: 1})
        if is_copied:
            assert farthest(after(engine, 2, length, 3), after(engine, 2, length)) < NOISE, f"{length} tokens"
    assert farthest(after(engine, 0, LENGTH, 1), after(engine, 0, LENGTH)) < NOISE, "it stayed as it was"


def test_a_kept_prefix_says_what_it_can_be_cut_to(shape: Shape) -> None:
    engine = shape.make()
    park(engine, 0, TEXT[:LENGTH], 1)
    kept = engine.save(0, Owner("prefix", 1), 2, ROOM)
    assert kept is not None and kept.tokens == LENGTH
    engine.clear(0)
    expected = {"llama": 0, "gemma2": LENGTH - 1, "mamba": LENGTH, "jamba": LENGTH}
    assert kept.least_tokens == expected[shape.architecture]
    for length in lengths(kept.least_tokens):
        assert engine.restore(1, kept)
        is_cut = engine.cut(1, 2, length)
        assert is_cut == (length >= kept.least_tokens), f"{length} tokens"
        if is_cut:
            assert farthest(after(engine, 1, length, 2), after(engine, 0, length)) < NOISE, f"{length} tokens"
        assert engine.is_empty()


def test_what_is_restored_is_the_same_to_the_last_bit(shape: Shape) -> None:
    """But for a window: of that, less is restored, and sums are taken in another order."""
    engine = shape.make()
    park(engine, 0, TEXT[:LENGTH], 1)
    kept = engine.save(0, Owner("prefix", 1), 2, ROOM)
    assert kept is not None
    stayed = after(engine, 0, LENGTH, 1)
    assert engine.restore(0, kept)
    restored = after(engine, 0, LENGTH, 2)
    assert farthest(stayed, restored) < NOISE
    if shape.architecture != "gemma2":
        assert stayed.tobytes() == restored.tobytes()


def test_within_its_window_a_model_can_be_cut_anywhere(models: dict[str, Path]) -> None:
    engines = Engines(models["gemma2"])
    for kv in LAYOUTS:
        engine = engines(kv=kv)
        for length in range(1, WINDOW_TOKENS + 1):
            assert park(engine, 0, TEXT[:WINDOW_TOKENS], 1) == 0
            assert engine.cut(0, 1, length)
            assert farthest(after(engine, 0, length, 1), after(engine, 1, length)) < NOISE
    engines.close()


@pytest.mark.parametrize("kv", LAYOUTS)
def test_llama_cpp_itself_cuts_what_it_cannot(models: dict[str, Path], kv: str) -> None:
    """It answers that it did, and the next token is computed without a part of its window."""
    engines = Engines(models["gemma2"])
    engine = engines(kv=kv, context_tokens=512)
    least = park(engine, 0, TEXT[:LENGTH], 1)
    assert least > WINDOW_TOKENS
    length = least - WINDOW_TOKENS // 2
    assert llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(engine._context), 0, length, -1)
    assert farthest(after(engine, 0, length, 1), after(engine, 1, length)) > 10 * NOISE
    engines.close()
