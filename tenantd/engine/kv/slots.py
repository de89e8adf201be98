"""Assigns llama.cpp sequences to requests, and keeps those of decoding requests adjacent.

A sequence belongs to one request from `take` to `release`. Each `take` gets a number, its binding, that never repeats
in the life of the engine; by it the daemon recognises what a sequence computed for whom. A free sequence is empty, or a
prefix is parked in it: then it can be taken all the same, and is emptied first.

With one KV stream per sequence, llama.cpp decodes only consecutive sequence ids in one pass (llama-batch.cpp,
split_equal): ids 0, 1 and 3 need two passes. `compact` returns the moves after which one pass is enough. Pure.
"""

from __future__ import annotations

from collections.abc import Set

from tenantd.engine.compute import EngineBroken


class Slots:
    """The sequence ids 0 to n-1. Each is bound to one request or to none.

    `owners` and `bindings` are by sequence, for the hot path; only this class changes them. The owner of a free
    sequence is None, and its binding is the last one. `parked` is the prefix that is in a sequence, the least recently
    used first; a sequence is in it until it has been emptied, even if it was taken.
    """

    def __init__(self, n: int) -> None:
        assert n > 0
        self.owners: list[int | None] = [None] * n
        self.bindings = [0] * n
        self.parked: dict[int, int] = {}
        self._numbers = 0  # so far

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def free(self) -> int:
        return self.owners.count(None)

    def can_take(self) -> bool:
        return None in self.owners

    def take(self, request: int) -> int:
        """Bind the lowest empty sequence to `request` and return it; without any, the one whose prefix was not used for
        longest. `can_take()` must hold."""
        sequence = self.owners.index(None)
        if sequence in self.parked:
            sequence = self._lowest_empty() if self.has_empty() else next(s for s in self.parked if self._is_free(s))
        self.owners[sequence] = request
        self.bindings[sequence] = self.new_number()
        return sequence

    def new_number(self) -> int:
        """A number that no binding and no prefix ever had."""
        self._numbers += 1
        return self._numbers

    def exchange(self, sequence: int, other: int, request: int) -> None:
        """Give a request a free sequence, with a prefix or without, for the one that it has. Raises EngineBroken."""
        if self.owners[other] is not None or self.owners[sequence] != request:
            raise EngineBroken(f"request {request} cannot have sequence {other} for {sequence}")
        self.owners[other], self.owners[sequence] = request, None
        self.bindings[other] = self.bindings[sequence]

    # ---- prefixes -------------------------------------------------------------------------------------------------

    def park(self, sequence: int, prefix: int) -> None:
        """A prefix was left in a free sequence."""
        if self.owners[sequence] is not None or sequence in self.parked:
            raise EngineBroken(f"sequence {sequence} is not free for prefix {prefix}")
        self.parked[sequence] = prefix

    def unpark(self, sequence: int) -> int:
        """The prefix is there no more. Returns which."""
        return self.parked.pop(sequence)

    def where(self, prefix: int) -> int | None:
        """The sequence in which a prefix is parked, if it is."""
        return next((sequence for sequence, number in self.parked.items() if number == prefix), None)

    def touch(self, sequence: int) -> None:
        """The prefix that is parked there is used now."""
        self.parked[sequence] = self.parked.pop(sequence)

    def has_empty(self) -> bool:
        """Whether a free sequence is empty."""
        return any(map(self._is_empty, range(len(self.owners))))

    def in_the_way(self, decoding: Set[int]) -> int | None:
        """The sequence that must be emptied first, so that `compact` can do its work; None if it can."""
        if not self.parked or not decoding or max(decoding) - min(decoding) + 1 == len(decoding) or self.has_empty():
            return None
        return next(iter(self.parked))

    def _is_free(self, sequence: int) -> bool:
        return self.owners[sequence] is None

    def _is_empty(self, sequence: int) -> bool:
        return self.owners[sequence] is None and sequence not in self.parked

    def _lowest_empty(self) -> int:
        return next(filter(self._is_empty, range(len(self.owners))))

    # ---- requests -------------------------------------------------------------------------------------------------

    def release(self, sequence: int, request: int) -> None:
        """Unbind a sequence. The caller must clear its cells before it is taken again. Raises EngineBroken if it
        belongs to another request."""
        if (owner := self.owners[sequence]) != request:
            raise EngineBroken(f"request {request} released sequence {sequence}, which belongs to {owner}")
        self.owners[sequence] = None

    def owner(self, sequence: int) -> int | None:
        return self.owners[sequence]

    def compact(self, decoding: Set[int]) -> list[tuple[int, int]]:
        """Moves (from, to) that make the sequence ids in `decoding` consecutive. Already applied here.

        If made in order, every move has an empty target. A request in prefill or a prefix that occupies a hole is moved
        to an empty sequence; if there is none, the hole stays and the pass is split.
        """
        if not decoding or max(decoding) - min(decoding) + 1 == len(decoding):
            return []
        moves: list[tuple[int, int]] = []
        outside = sorted(s for s in decoding if s >= len(decoding))
        for hole in sorted(set(range(len(decoding))) - decoding):
            if not self._is_empty(hole):
                spare = self._last_empty()
                if spare is None:
                    continue
                self._move(hole, spare, moves)
            self._move(outside.pop(), hole, moves)
        return moves

    def _last_empty(self) -> int | None:
        for sequence in range(len(self.owners) - 1, -1, -1):
            if self._is_empty(sequence):
                return sequence
        return None

    def _move(self, source: int, target: int, moves: list[tuple[int, int]]) -> None:
        """The binding moves along: the sequence changes, and whose it is does not."""
        if not self._is_empty(target) or self._is_empty(source):
            raise EngineBroken(f"sequence {source} cannot move to {target}: it is empty, or its target is not")
        if source in self.parked:
            self.parked = {target if s == source else s: prefix for s, prefix in self.parked.items()}
        self.owners[target], self.owners[source] = self.owners[source], None
        self.bindings[target] = self.bindings[source]
        moves.append((source, target))
