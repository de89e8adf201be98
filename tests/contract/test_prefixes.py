"""What every engine promises of prefixes: whichever way one came to its place, its tokens decide what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile

import pytest

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Compute, EngineBroken, Kept, Owner, RequestRejected
from tenantd.engine.fake import BROKEN_GRAMMAR
from tests.contract.kit import GREEDY, farthest, generate, seen_logits
from tests.support.device import LOGITS_NOISE

TEXT = [int(7 + n * n % 83) for n in range(40)]
OTHER = TEXT[::-1]
ROOM = 1 << 30


@dataclass(eq=False)
class Answer:
    """The likeliest tokens, and the logits of each. On a device, two answers are the same also if their logits are, but
    for its noise, as far as their tokens are, and at the first that is not, where the noise decides."""

    tokens: list[int]
    rows: list[list[float]] = field(repr=False)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Answer)
        if not LOGITS_NOISE:
            return self.tokens == other.tokens
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.tokens, other.tokens, strict=True)))
        compared = [*zip(self.rows, other.rows, strict=True)][: same + 1]
        return all(farthest(mine, yours) < LOGITS_NOISE for mine, yours in compared)

    __hash__ = None  # type: ignore[assignment]


def answer(engine: Compute, tokens: list[int], adapter: str = "", n: int = 6) -> Answer:
    """What follows these tokens when nothing of them is kept. Sequence 3 must be empty."""
    engine.bind(3, GREEDY, tokens, [], adapter, request=99)
    return finish(engine, 3, tokens, 0, 99, n)


def finish(engine: Compute, sequence: int, tokens: list[int], done: int, request: int, n: int = 6) -> Answer:
    """What follows the tokens of a bound sequence of which the first `done` are computed. It is empty afterwards."""
    with seen_logits(engine) as rows:
        out = generate(engine, sequence, tokens, n, done=done, request=request)
    engine.clear(sequence)
    return Answer(out, rows)


def park(engine: Compute, sequence: int, tokens: list[int], prefix: int, adapter: str = "") -> None:
    """Compute tokens for a request that ends, and leave them."""
    engine.bind(sequence, GREEDY, tokens, [], adapter, request=prefix + 100)
    engine.run([Chunk(sequence, 0, tokens, False, prefix + 100)])
    parked = engine.park(sequence, prefix + 100, prefix)
    assert parked.size_bytes > 0 and parked.least_tokens == 0


def keep(engine: Compute, sequence: int, owner: Owner, prefix: int) -> Kept:
    kept = engine.save(sequence, owner, prefix, ROOM)
    assert kept is not None and kept.prefix == prefix and kept.size_bytes > 0 and kept.least_tokens == 0
    return kept


def follow(engine: Compute, sequence: int, prefix: int, tokens: list[int], done: int) -> Answer:
    """What a request gets that begins with a parked prefix of `done` tokens."""
    engine.bind(sequence, GREEDY, tokens, [], request=7, prefix=prefix)
    return finish(engine, sequence, tokens, done, 7)


@pytest.mark.parametrize("at", [0, 13, 39])
def test_one_other_token_makes_another_answer(engine: Compute, at: int) -> None:
    """Else the answers compared below would say nothing."""
    other = [*TEXT[:at], TEXT[at] + 1, *TEXT[at + 1 :]]
    assert answer(engine, TEXT) != answer(engine, other)


def test_a_request_goes_on_where_a_parked_prefix_ends(engine: Compute) -> None:
    whole = answer(engine, TEXT)
    park(engine, 0, TEXT[:25], prefix=5)
    assert not engine.is_empty() and engine.holds_only({0: 5})
    assert follow(engine, 0, 5, TEXT, 25) == whole
    assert engine.is_empty()


@pytest.mark.parametrize("tokens", [1, 2, 13, 38, 39])
def test_a_parked_prefix_can_be_cut(engine: Compute, tokens: int) -> None:
    other = TEXT[:tokens] + OTHER[:12]
    whole = answer(engine, other)
    park(engine, 1, TEXT, prefix=5)
    assert engine.cut(1, 5, tokens)
    assert engine.holds_only({1: 5})
    assert follow(engine, 1, 5, other, tokens) == whole


def test_a_prefix_cut_to_its_length_stays_as_it_is(engine: Compute) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    assert engine.cut(0, 5, 25)
    assert follow(engine, 0, 5, TEXT, 25) == answer(engine, TEXT)


@pytest.mark.parametrize("tokens", [0, 26])
def test_a_prefix_is_cut_to_a_part_of_itself(engine: Compute, tokens: int) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    with pytest.raises(EngineBroken):
        engine.cut(0, 5, tokens)
    with pytest.raises(EngineBroken):
        engine.copy(0, 1, Owner("prefix", 5), 6, tokens)


@pytest.mark.parametrize("tokens", [1, 20, 25])
def test_a_copy_of_a_parked_prefix_is_another_prefix(engine: Compute, tokens: int) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    assert engine.copy(0, 2, Owner("prefix", 5), 6, tokens)
    assert engine.holds_only({0: 5, 2: 6})
    other = TEXT[:tokens] + OTHER[:12]
    assert follow(engine, 2, 6, other, tokens) == answer(engine, other)
    assert follow(engine, 0, 5, TEXT, 25) == answer(engine, TEXT)


def test_a_running_request_is_copied_and_goes_on(engine: Compute) -> None:
    whole, other = answer(engine, TEXT), answer(engine, TEXT[:10] + OTHER)
    engine.bind(1, GREEDY, TEXT, [], request=7)
    engine.run([Chunk(1, 0, TEXT[:30], False, 7)])
    assert engine.copy(1, 0, Owner("request", 7), 6, 10)
    engine.bind(0, GREEDY, [], [], request=8, prefix=6)
    chunks = [Chunk(0, 10, OTHER[:5], False, 8), Chunk(1, 30, TEXT[30:35], False, 7)]
    assert engine.run(chunks).sampled == {}
    assert finish(engine, 0, TEXT[:10] + OTHER, 15, 8) == other
    assert finish(engine, 1, TEXT, 35, 7) == whole
    assert engine.is_empty()


def test_every_sequence_may_be_a_copy_of_the_first(engine: Compute) -> None:
    """And be saved before anything else is computed."""
    park(engine, 0, TEXT[:25], prefix=1)
    for target in (1, 2, 3):
        assert engine.copy(0, target, Owner("prefix", 1), 1 + target, 20 + target)
    kept = keep(engine, 3, Owner("prefix", 4), 9)
    for sequence in (0, 1, 3):
        engine.clear(sequence)
    assert engine.holds_only({2: 3})
    assert follow(engine, 2, 3, TEXT, 22) == answer(engine, TEXT)
    assert engine.restore(1, kept)
    assert follow(engine, 1, 9, TEXT, 23) == answer(engine, TEXT)


def test_a_kept_prefix_can_be_restored_many_times(engine: Compute) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    kept = keep(engine, 0, Owner("prefix", 5), 5)
    assert kept.tokens == 25
    engine.clear(0)
    assert engine.is_empty()
    whole = answer(engine, TEXT)
    for sequence in (0, 1):
        assert engine.restore(sequence, kept)
    assert engine.holds_only({0: 5, 1: 5})
    assert follow(engine, 1, 5, TEXT, 25) == whole
    kept.free()
    assert engine.cut(0, 5, 20)
    assert follow(engine, 0, 5, TEXT, 20) == whole


def test_a_checkpoint_of_a_running_request_stays_what_it_was(engine: Compute) -> None:
    engine.bind(0, GREEDY, TEXT, [], request=7)
    engine.run([Chunk(0, 0, TEXT[:20], False, 7)])
    kept = keep(engine, 0, Owner("request", 7), 5)
    assert finish(engine, 0, TEXT, 20, 7) == answer(engine, TEXT)
    assert engine.restore(2, kept)
    other = TEXT[:20] + OTHER[:7]
    assert follow(engine, 2, 5, other, 20) == answer(engine, other)


def test_what_does_not_fit_is_not_kept(engine: Compute) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    size_bytes = keep(engine, 0, Owner("prefix", 5), 5).size_bytes
    assert engine.save(0, Owner("prefix", 5), 5, size_bytes - 1) is None
    assert engine.save(0, Owner("prefix", 5), 5, size_bytes) is not None
    assert engine.holds_only({0: 5})


def test_a_parked_prefix_can_be_moved(engine: Compute) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    engine.move(0, 2)
    assert engine.holds_only({2: 5})
    assert engine.cut(2, 5, 24)
    assert follow(engine, 2, 5, TEXT, 24) == answer(engine, TEXT)


def test_a_request_that_began_with_a_prefix_can_give_way_and_be_parked_again(engine: Compute) -> None:
    whole = answer(engine, TEXT)
    park(engine, 0, TEXT[:25], prefix=5)
    engine.bind(0, GREEDY, [], [], request=7, prefix=5)
    swapped = engine.swap_out(0, ROOM)
    assert engine.is_empty()
    assert engine.swap_in(2, swapped, 7)
    engine.run([Chunk(2, 25, TEXT[25:30], False, 7)])
    engine.park(2, 7, 6)
    assert follow(engine, 2, 6, TEXT, 30) == whole


def test_neighbours_of_a_prefix_get_what_they_would_without_it(engine: Compute) -> None:
    alone = answer(engine, OTHER)
    park(engine, 0, TEXT[:25], prefix=5)
    assert engine.copy(0, 1, Owner("prefix", 5), 6, 20)
    engine.bind(2, GREEDY, OTHER, [], request=8)
    engine.run([Chunk(2, 0, OTHER[:10], False, 8)])
    assert engine.cut(1, 6, 5)
    engine.clear(0)
    assert finish(engine, 2, OTHER, 10, 8) == alone


def test_an_answer_can_be_a_part_of_the_prefix(engine: Compute) -> None:
    engine.bind(0, GREEDY, TEXT, [], request=7)
    said = generate(engine, 0, TEXT, 5, request=7)
    engine.park(0, 7, 5)  # the token sampled last was not computed
    tokens = [*TEXT, *said, *OTHER]
    assert follow(engine, 0, 5, tokens, len(TEXT) + 4) == answer(engine, tokens)


# ---- whose it is --------------------------------------------------------------------------------------------------


def test_a_prefix_is_used_by_its_own_number_only(engine: Compute) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    engine.bind(1, GREEDY, TEXT, [], request=7)
    engine.run([Chunk(1, 0, TEXT[:9], False, 7)])
    attempts: list[Callable[[], object]] = [
        lambda: engine.bind(0, GREEDY, [], [], request=8, prefix=6),
        lambda: engine.bind(1, GREEDY, [], [], request=8, prefix=5),
        lambda: engine.bind(2, GREEDY, [], [], request=8, prefix=5),
        lambda: engine.bind(0, GREEDY, [], [], request=8),
        lambda: engine.bind(0, GREEDY, [], [], request=5),
        lambda: engine.cut(0, 6, 3),
        lambda: engine.cut(1, 5, 3),
        lambda: engine.cut(1, 7, 3),
        lambda: engine.copy(0, 2, Owner("prefix", 6), 9, 3),
        lambda: engine.copy(0, 2, Owner("request", 5), 9, 3),
        lambda: engine.copy(1, 2, Owner("request", 8), 9, 3),
        lambda: engine.copy(1, 2, Owner("prefix", 7), 9, 3),
        lambda: engine.copy(0, 1, Owner("prefix", 5), 9, 3),
        lambda: engine.save(0, Owner("prefix", 6), 9, ROOM),
        lambda: engine.save(0, Owner("request", 5), 9, ROOM),
        lambda: engine.save(1, Owner("request", 8), 9, ROOM),
        lambda: engine.save(1, Owner("prefix", 7), 9, ROOM),
        lambda: engine.save(2, Owner("prefix", 0), 9, ROOM),
        lambda: engine.park(0, 5, 6),
        lambda: engine.park(1, 8, 6),
        lambda: engine.run([Chunk(0, 25, TEXT[25:], True, 5)]),
        lambda: engine.move(1, 0),
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(EngineBroken):
            attempt()
            pytest.fail(f"attempt {number} succeeded")
    assert finish(engine, 1, TEXT, 9, 7) == answer(engine, TEXT)
    assert engine.holds_only({0: 5})
    assert follow(engine, 0, 5, TEXT, 25) == answer(engine, TEXT)


def test_a_kept_prefix_goes_to_an_empty_sequence_only(engine: Compute) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    kept = keep(engine, 0, Owner("prefix", 5), 5)
    engine.bind(1, GREEDY, TEXT, [], request=7)
    for sequence in (0, 1):
        with pytest.raises(EngineBroken):
            engine.restore(sequence, kept)


def test_a_sequence_without_tokens_is_neither_parked_nor_kept(engine: Compute) -> None:
    engine.bind(0, GREEDY, TEXT, [], request=7)
    with pytest.raises(EngineBroken):
        engine.save(0, Owner("request", 7), 5, ROOM)
    with pytest.raises(EngineBroken):
        engine.park(0, 7, 5)


def test_what_is_parked_must_be_known_in_full(engine: Compute) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    park(engine, 2, OTHER, prefix=6)
    assert engine.holds_only({0: 5, 2: 6})
    for known in ({}, {0: 5}, {0: 6, 2: 5}, {0: 5, 1: 6}, {0: 5, 1: 7, 2: 6}):
        assert not engine.holds_only(known)
    engine.bind(0, GREEDY, [], [], request=7, prefix=5)
    assert not engine.holds_only({0: 5, 2: 6}) and not engine.holds_only({2: 6})


def test_a_rejected_request_leaves_its_prefix_parked(engine: Compute) -> None:
    park(engine, 0, TEXT[:25], prefix=5)
    with pytest.raises(RequestRejected):
        engine.bind(0, Sampling(grammar=BROKEN_GRAMMAR), [], [], request=7, prefix=5)
    assert engine.holds_only({0: 5})
    assert follow(engine, 0, 5, TEXT, 25) == answer(engine, TEXT)


# ---- adapters -----------------------------------------------------------------------------------------------------


def test_a_prefix_belongs_to_the_adapter_that_it_was_computed_with(engine: Compute, adapter: str) -> None:
    whole = answer(engine, TEXT, adapter)
    park(engine, 0, TEXT[:25], prefix=5, adapter=adapter)
    assert engine.copy(0, 1, Owner("prefix", 5), 6, 20)
    kept = keep(engine, 0, Owner("prefix", 5), 7)
    assert engine.restore(2, kept)
    engine.move(2, 3)
    for sequence, prefix in ((0, 5), (1, 6), (3, 7)):
        with pytest.raises(EngineBroken):
            engine.bind(sequence, GREEDY, [], [], request=7, prefix=prefix)
    for sequence, prefix, done in ((0, 5, 25), (1, 6, 20), (3, 7, 25)):
        engine.bind(sequence, GREEDY, [], [], adapter, request=7, prefix=prefix)
        assert finish(engine, sequence, TEXT, done, 7) == whole
    park(engine, 0, TEXT[:25], prefix=8)
    with pytest.raises(EngineBroken):
        engine.bind(0, GREEDY, [], [], adapter, request=7, prefix=8)


def test_adapters_are_told_apart_by_their_version(engine: Compute, adapter: str) -> None:
    version = engine.adapter_version(adapter)
    assert engine.adapter_version("") == () != version
    assert engine.adapter_version(adapter) == version and hash(version) == hash(engine.adapter_version(adapter))
