"""Which prefix serves a request: compared with looking at all of them."""

from __future__ import annotations

import random
import tracemalloc
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.kv.prefixes import BLOCK_TOKENS, PREFIX_BYTES, TOKEN_BYTES, Key, Prefix, Prefixes, chain_of

OURS = Key(1, 0, "", ())
texts = st.lists(st.integers(0, 1), max_size=2 * BLOCK_TOKENS).flatmap(
    lambda end: st.integers(0, 5 * BLOCK_TOKENS).map(lambda same: [7] * same + end)
)


def prefix(number: int, tokens: list[int], least_tokens: int = 0, key: Key = OURS) -> Prefix:
    return Prefix(number, key, array("i", tokens), chain_of(tokens), least_tokens, 100)


def found(prefixes: Prefixes, tokens: list[int], key: Key = OURS) -> tuple[int, int] | None:
    match = prefixes.find(key, array("i", tokens), chain_of(tokens), len(tokens) - 1)
    return match and (match.prefix.number, match.tokens)


def same_tokens(ours: list[int], theirs: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))


@given(kept=st.lists(st.tuples(texts, st.sampled_from([0, 0, 1, 2])), max_size=12), asked=texts)
def test_what_is_found_is_as_long_as_any_that_serves(kept: list[tuple[list[int], int]], asked: list[int]) -> None:
    """A state can be cut to any length, to its last block, or not at all."""
    prefixes, best = Prefixes(), 0
    for number, (tokens, kind) in enumerate(kept):
        if len(tokens) >= BLOCK_TOKENS:
            least_tokens = [0, len(tokens) - BLOCK_TOKENS + 1, len(tokens)][kind]
            prefixes.add(prefix(number, tokens, least_tokens))
            same = min(same_tokens(tokens, asked), len(asked) - 1)
            if same >= max(least_tokens, BLOCK_TOKENS - 1):
                best = max(best, same)
    match = found(prefixes, asked)
    if match is None:
        assert best < BLOCK_TOKENS or len(asked) <= BLOCK_TOKENS
    else:
        number, tokens = match
        assert kept[number][0][:tokens] == asked[:tokens] and tokens < len(asked)
        assert tokens == best


def test_a_prefix_is_found_only_under_its_key() -> None:
    prefixes, tokens = Prefixes(), list(range(40))
    prefixes.add(prefix(1, tokens))
    assert found(prefixes, tokens) == (1, 39)
    for other in (Key(2, 0, "", ()), Key(0, 1, "", ()), Key(1, 0, "x", ()), Key(1, 0, "", ("x", 1))):
        assert found(prefixes, tokens, other) is None


def test_blocks_whose_hashes_only_seem_the_same_are_not_used() -> None:
    prefixes, tokens = Prefixes(), list(range(40))
    prefixes.add(prefix(1, tokens))
    asked = [99, *tokens[1:]]
    assert prefixes.find(OURS, array("i", asked), chain_of(tokens), len(asked) - 1) is None


def test_what_is_removed_is_found_no_more_and_leaves_nothing() -> None:
    prefixes = Prefixes()
    both = [prefix(1, list(range(40))), prefix(2, list(range(60)), 60)]
    for one in both:
        prefixes.add(one)
    assert found(prefixes, list(range(70))) == (2, 60)
    prefixes.remove(both[1])
    assert found(prefixes, list(range(70))) == (1, 40)
    prefixes.remove(both[0])
    assert found(prefixes, list(range(70))) is None
    assert not prefixes._by_key and not prefixes.owners() and not len(prefixes)


def test_a_state_that_can_be_cut_less_once_it_is_moved_serves_less() -> None:
    prefixes, one = Prefixes(), prefix(1, list(range(60)), 20)
    prefixes.add(one)
    assert found(prefixes, [*range(30), 99]) == (1, 30)
    prefixes.restrict(one, 59)
    assert found(prefixes, [*range(30), 99]) is None and found(prefixes, list(range(70))) == (1, 60)


def test_the_oldest_is_the_one_that_was_not_used_for_longest_or_is_done_better_by_another() -> None:
    prefixes = Prefixes()
    one, two, theirs = prefix(1, [1] * 20), prefix(2, [2] * 20), prefix(3, [3] * 20, key=Key(5, 0, "", ()))
    for each in (one, two, theirs):
        prefixes.add(each)
    assert prefixes.oldest(1) is one and prefixes.oldest(5) is theirs and prefixes.oldest(6) is None
    assert prefixes.owners() == [1, 5]
    prefixes.touch(one)
    assert prefixes.oldest(1) is two
    prefixes.make_oldest(one)
    assert prefixes.oldest(1) is one


@given(st.lists(texts, max_size=8), texts)
def test_those_inside_another_are_all_that_it_begins_with(kept: list[list[int]], longer: list[int]) -> None:
    prefixes = Prefixes()
    for number, tokens in enumerate(kept):
        if len(tokens) >= BLOCK_TOKENS:
            prefixes.add(prefix(number, tokens))
    inside = {one.number for one in prefixes.inside(prefix(99, longer))}
    assert inside == {n for n, t in enumerate(kept) if len(t) >= BLOCK_TOKENS and longer[: len(t)] == t}


@pytest.mark.parametrize("length", [16, 160, 1600])
def test_what_is_kept_beside_a_state_takes_no_more_than_is_counted(length: int) -> None:
    drawn = random.Random(1)
    texts = [[drawn.randrange(30_000) for _ in range(length)] for _ in range(50)]
    prefixes = Prefixes()
    tracemalloc.start()
    try:
        for number, tokens in enumerate(texts, 1):
            prefixes.add(prefix(number, tokens))
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken_bytes <= len(texts) * (PREFIX_BYTES + TOKEN_BYTES * length)
