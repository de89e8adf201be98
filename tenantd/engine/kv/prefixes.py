"""Prefixes: tokens that earlier requests computed, for later ones to begin with. Which there are, and which serves
best. Pure.

A prefix is looked for by the hashes of its blocks, each of which covers all blocks before it, only among those with the
same key. Hashes only find candidates: what is used was compared token by token.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

BLOCK_TOKENS: Final = 16
"""Nothing shorter is looked for: it is computed as fast as it is copied."""
MOST_COMPARED: Final = 16
"""A search compares at most this many prefixes, the newest first, so that it stays short however many there are."""
TOKEN_BYTES: Final = 28
"""What is kept here for each token, beside its state: the number, and its part of hashes and index."""
PREFIX_BYTES: Final = 2048
"""And for each prefix."""


class Key(NamedTuple):
    """What two requests must have in common to share anything: the tenant, the adapter with its version, and how many
    tokens its system prompt takes. Else a prompt that spells a system prompt would find it, and so tell what it is."""

    owner: int  # the tenant's number in the ledger; 0: only the requests of one call
    group: int  # the call, if there is no owner
    adapter: str
    version: Hashable
    hidden_tokens: int = 0  # as in `Submit`


@dataclass(slots=True, eq=False)
class Prefix:
    """A computed sequence of tokens. `size_bytes` is what it takes of its owner's share, its state included.

    `least_tokens` is the shortest length that its state can be cut to; 0 is any.
    """

    number: int
    key: Key
    tokens: array[int]
    chain: list[int] = field(repr=False)  # see `chain_of`
    least_tokens: int
    size_bytes: int
    used: int = 0  # grows with every use of any prefix
    is_checkpoint: bool = False  # a copy of what a request had at some length, not what it left

    @property
    def owner(self) -> int:
        return self.key.owner


class Match(NamedTuple):
    """The first `tokens` of a prefix are those of a request."""

    prefix: Prefix
    tokens: int


def chain_of(tokens: Sequence[int], before: Sequence[int] = (), most_more: int | None = None) -> list[int]:
    """The hashes of all whole blocks, each with those before it. `before` is the beginning of the result, if known;
    at most `most_more` blocks are added to it."""
    chain = list(before)
    last = chain[-1] if chain else 0
    blocks = len(tokens) // BLOCK_TOKENS
    if most_more is not None:
        blocks = min(blocks, len(chain) + most_more)
    for start in range(len(chain) * BLOCK_TOKENS, blocks * BLOCK_TOKENS, BLOCK_TOKENS):
        last = hash((last, *tokens[start : start + BLOCK_TOKENS]))
        chain.append(last)
    return chain


def common_tokens(ours: Sequence[int], theirs: Sequence[int], blocks: int, most: int) -> int:
    """How many first tokens are the same, at most `most`, if `blocks` blocks seem to be and one more is not. 0 if they
    only seemed to be."""
    most = min(most, len(ours), len(theirs))
    same = min(blocks * BLOCK_TOKENS, most)
    if ours[:same] != theirs[:same]:
        return 0
    end = min(most, same + BLOCK_TOKENS)
    while same < end and ours[same] == theirs[same]:
        same += 1
    return same


@dataclass(slots=True)
class _Index:
    """The prefixes with one key, by number; by the blocks that they can serve, the newest last; and by their last whole
    block."""

    by_number: dict[int, Prefix] = field(default_factory=dict)
    by_block: dict[int, dict[int, Prefix]] = field(default_factory=dict)
    by_end: dict[int, dict[int, Prefix]] = field(default_factory=dict)


class Prefixes:
    """Every prefix, wherever its state is, by key, and by owner in the order of use."""

    def __init__(self) -> None:
        self._by_number: dict[int, Prefix] = {}
        self._by_key: dict[Key, _Index] = {}
        self._by_owner: dict[int, OrderedDict[int, Prefix]] = {}  # the least recently used first
        self._uses = 0

    def __len__(self) -> int:
        return len(self._by_number)

    def __contains__(self, prefix: Prefix) -> bool:
        return prefix.number in self._by_number

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Prefix:
        return self._by_number[number]

    def owners(self) -> list[int]:
        """Those that have any."""
        return list(self._by_owner)

    def keys(self) -> list[Key]:
        """Those that any prefix has."""
        return list(self._by_key)

    def add(self, prefix: Prefix) -> None:
        """Add a prefix of at least one block; it counts as just used."""
        assert prefix.chain, "a prefix has at least one block"
        self._by_number[prefix.number] = prefix
        self._by_owner.setdefault(prefix.owner, OrderedDict())[prefix.number] = prefix
        self._by_key.setdefault(prefix.key, _Index()).by_number[prefix.number] = prefix
        self._index(prefix)
        self.touch(prefix)

    def remove(self, prefix: Prefix) -> None:
        """Forget a prefix."""
        self._unlist(prefix)
        self._unindex(prefix)
        index = self._by_key[prefix.key]
        del index.by_number[prefix.number]
        if not index.by_number:
            del self._by_key[prefix.key]

    def withdraw(self, key: Key) -> list[Prefix]:
        """Forget all prefixes with this key at once, however long they are, and return them."""
        found = list(self._by_key.pop(key).by_number.values())
        for prefix in found:
            self._unlist(prefix)
        return found

    def _unlist(self, prefix: Prefix) -> None:
        del self._by_number[prefix.number]
        mine = self._by_owner[prefix.owner]
        del mine[prefix.number]
        if not mine:
            del self._by_owner[prefix.owner]

    def restrict(self, prefix: Prefix, least_tokens: int) -> None:
        """Its state can now be cut to another length at least."""
        if prefix.least_tokens != least_tokens:
            self._unindex(prefix)
            prefix.least_tokens = least_tokens
            self._index(prefix)

    def touch(self, prefix: Prefix) -> None:
        """It is used now."""
        self._uses += 1
        prefix.used = self._uses
        self._by_owner[prefix.owner].move_to_end(prefix.number)

    def find(self, key: Key, tokens: array[int], chain: Sequence[int], most: int) -> Match | None:
        """The prefix that serves a request with these tokens best, at most `most` of them. None if none does."""
        if (index := self._by_key.get(key)) is None:
            return None
        seen: set[int] = set()
        for blocks in range(len(chain), 0, -1):
            if (there := index.by_block.get(chain[blocks - 1])) is None:
                continue
            best: Match | None = None
            for number, prefix in reversed(there.items()):
                if number in seen:
                    continue
                if len(seen) == MOST_COMPARED:
                    return best
                seen.add(number)
                same = common_tokens(tokens, prefix.tokens, blocks, most)
                if same and same >= prefix.least_tokens and (best is None or same > best.tokens):
                    best = Match(prefix, same)
            if best is not None:
                return best
        return None

    def likely(self, key: Key, chain: Sequence[int]) -> int:
        """About how many first tokens of a request a prefix would serve: whole blocks, and not compared."""
        if (index := self._by_key.get(key)) is None:
            return 0
        for blocks in range(len(chain), 0, -1):
            if chain[blocks - 1] in index.by_block:
                return blocks * BLOCK_TOKENS
        return 0

    def inside(self, longer: Prefix) -> list[Prefix]:
        """Prefixes with the same key whose tokens are the first of another one."""
        found: list[Prefix] = []
        index = self._by_key.get(longer.key, _Index())
        for block in longer.chain:
            for prefix in index.by_end.get(block, {}).values():
                if prefix is not longer and prefix.tokens == longer.tokens[: len(prefix.tokens)]:
                    found.append(prefix)
        return found

    def make_oldest(self, prefix: Prefix) -> None:
        """It is the first of its owner's to go: a longer one does all that it did, but for going back to it."""
        prefix.used = 0
        self._by_owner[prefix.owner].move_to_end(prefix.number, last=False)

    def oldest(self, owner: int) -> Prefix | None:
        """The least recently used prefix of an owner; None if it has none."""
        mine = self._by_owner.get(owner)
        return next(iter(mine.values())) if mine else None

    def _index(self, prefix: Prefix) -> None:
        """Under every block at which a request may leave it without needing a length that it cannot be cut to."""
        index = self._by_key[prefix.key]
        for block in prefix.chain[max(0, prefix.least_tokens // BLOCK_TOKENS - 1) :]:
            index.by_block.setdefault(block, {})[prefix.number] = prefix
        index.by_end.setdefault(prefix.chain[-1], {})[prefix.number] = prefix

    def _unindex(self, prefix: Prefix) -> None:
        index = self._by_key[prefix.key]
        _take_out(index.by_end, prefix.chain[-1], prefix.number)
        for block in prefix.chain[max(0, prefix.least_tokens // BLOCK_TOKENS - 1) :]:
            _take_out(index.by_block, block, prefix.number)


def _take_out(at: dict[int, dict[int, Prefix]], block: int, number: int) -> None:
    there = at[block]
    del there[number]
    if not there:
        del at[block]
