"""Assigns llama.cpp sequences to requests, and keeps those of decoding requests adjacent.

A sequence belongs to one request from `take` to `release`. Each `take` gets a number, its binding, that never repeats
in the life of the engine; by it the daemon recognises what a sequence computed for whom.

With one KV stream per sequence, llama.cpp decodes only consecutive sequence ids in one pass (llama-batch.cpp,
split_equal): ids 0, 1 and 3 need two passes. `compact` returns the moves after which one pass is enough. Pure.
"""

from __future__ import annotations

from collections.abc import Set

from tenantd.engine.compute import EngineBroken


class Slots:
    """The sequence ids 0 to n-1. Each is bound to one request or to none.

    `owners` and `bindings` are by sequence, for the hot path; only this class changes them. The owner of a free
    sequence is None, and its binding is the last one.
    """

    def __init__(self, n: int) -> None:
        assert n > 0
        self.owners: list[int | None] = [None] * n
        self.bindings = [0] * n
        self._taken = 0  # so far

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def free(self) -> int:
        return self.owners.count(None)

    def can_take(self) -> bool:
        return None in self.owners

    def take(self, request: int) -> int:
        """Bind the lowest free sequence to `request` and return it. `can_take()` must hold."""
        sequence = self.owners.index(None)
        self._taken += 1
        self.owners[sequence] = request
        self.bindings[sequence] = self._taken
        return sequence

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

        If made in order, every move has a free target. A request in prefill that occupies a hole is moved to a free
        sequence; if there is none, the hole stays and the pass is split.
        """
        if not decoding or max(decoding) - min(decoding) + 1 == len(decoding):
            return []
        moves: list[tuple[int, int]] = []
        outside = sorted(s for s in decoding if s >= len(decoding))
        for hole in sorted(set(range(len(decoding))) - decoding):
            if self.owners[hole] is not None:
                spare = self._last_free()
                if spare is None:
                    continue
                self._move(hole, spare, moves)
            self._move(outside.pop(), hole, moves)
        return moves

    def _last_free(self) -> int | None:
        for sequence in range(len(self.owners) - 1, -1, -1):
            if self.owners[sequence] is None:
                return sequence
        return None

    def _move(self, source: int, target: int, moves: list[tuple[int, int]]) -> None:
        """The binding moves along: the sequence changes, and whose it is does not."""
        if self.owners[target] is not None or self.owners[source] is None:
            raise EngineBroken(f"sequence {source} cannot move to {target}: it is free, or its target is not")
        self.owners[target], self.owners[source] = self.owners[source], None
        self.bindings[target] = self.bindings[source]
        moves.append((source, target))
