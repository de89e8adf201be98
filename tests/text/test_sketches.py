"""Sketches: of fixed size, alike for similar prompts, and useless without their key."""

from __future__ import annotations

import itertools
import random

import msgspec
import numpy as np
import pytest

from tenantd.domain import Sketch
from tenantd.text.sketches import (
    FEATURES,
    KEY_BYTES,
    MOST_TOKENS,
    REGISTERS,
    Sketcher,
    add_distinct,
    count_distinct,
    distinct,
    features,
    sampled,
)

KEY = bytes(range(KEY_BYTES))
SKETCHER = Sketcher(KEY)


def prompt(seed: int, tokens: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(32_000) for _ in range(tokens)]


def bits_apart(one: Sketch, other: Sketch) -> int:
    return (one.simhash ^ other.simhash).bit_count()


@pytest.mark.parametrize("tokens", [1, 2, 63, MOST_TOKENS, MOST_TOKENS + 1, 200_000])
def test_a_sketch_has_the_same_size_for_any_prompt(tokens: int) -> None:
    sketch = SKETCHER.sketch(prompt(1, tokens))
    assert (len(sketch.features), len(sketch.vocabulary)) == (FEATURES, REGISTERS)
    assert max(sketch.features) < 256 and max(sketch.vocabulary) <= 58
    assert 0 <= sketch.digest < 2**64 and 0 <= sketch.simhash < 2**64
    assert len(msgspec.json.encode(sketch)) < 1000
    assert msgspec.json.decode(msgspec.json.encode(sketch), type=Sketch) == sketch


def test_all_of_a_short_prompt_is_looked_at_and_a_long_one_from_end_to_end() -> None:
    assert sampled(prompt(1, MOST_TOKENS)) == prompt(1, MOST_TOKENS)
    long = list(range(100_000))
    looked_at = sampled(long)
    assert len(looked_at) == MOST_TOKENS
    assert (looked_at[0], looked_at[-1]) == (0, 99_999)
    assert max(b - a for a, b in itertools.pairwise(looked_at)) < 100_000 / 14


def test_similar_prompts_have_similar_sketches_and_others_do_not() -> None:
    original = prompt(1, 200)
    variant = [*original[:100], 5, *original[101:]]
    one, similar, other = (SKETCHER.sketch(p) for p in (original, variant, prompt(2, 200)))
    assert bits_apart(one, similar) <= 6 < 16 <= bits_apart(one, other)
    near, far = (float(np.mean((features(one) - features(s)) ** 2)) for s in (similar, other))
    assert near < 0.1 < 1 < far
    assert len({one.digest, similar.digest, other.digest}) == 3
    assert SKETCHER.sketch(list(original)) == one


def test_without_the_key_a_sketch_tells_nothing() -> None:
    """Whoever guesses a prompt cannot tell that it is the one."""
    one, other = SKETCHER.sketch(prompt(1, 200)), Sketcher(bytes(KEY_BYTES)).sketch(prompt(1, 200))
    assert bits_apart(one, other) > 16 and one.digest != other.digest
    assert one.vocabulary != other.vocabulary and one.features != other.features


@pytest.mark.parametrize("number", [1, 10, 100, 1000, 100_000])
def test_different_hashes_are_counted_within_a_fifth(number: int) -> None:
    hashes = np.random.default_rng(number).integers(0, 2**64 - 1, number, np.uint64)
    registers = count_distinct(np.concatenate((hashes, hashes)))
    assert distinct(registers) == pytest.approx(number, rel=0.2)
    one_by_one = np.zeros(REGISTERS, np.uint8)
    for hashed in hashes[:1000].tolist():
        add_distinct(one_by_one, hashed)
    assert np.array_equal(one_by_one, count_distinct(hashes[:1000]))
