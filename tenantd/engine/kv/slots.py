"""Assigns llama.cpp sequences to requests, and keeps those of decoding requests adjacent.

With one KV stream per sequence, llama.cpp decodes only consecutive sequence ids in one pass (llama-batch.cpp,
split_equal): ids 0, 1 and 3 need two passes. `compact` returns the moves after which one pass is enough. Pure.
"""

from __future__ import annotations

from collections.abc import Set


class Slots:
    """The sequence ids 0 to n-1. Each is bound to one request or to none."""

    def __init__(self, n: int) -> None:
        assert n > 0
        self._owner: list[int | None] = [None] * n

    def __len__(self) -> int:
        return len(self._owner)

    @property
    def free(self) -> int:
        return self._owner.count(None)

    def can_take(self) -> bool:
        return None in self._owner

    def take(self, request: int) -> int:
        """Bind the lowest free sequence to `request` and return it. `can_take()` must hold."""
        sequence = self._owner.index(None)
        self._owner[sequence] = request
        return sequence

    def release(self, sequence: int, request: int) -> None:
        """Unbind a sequence. The caller must clear its cells before it is taken again."""
        assert self._owner[sequence] == request, "a sequence is released by the request it is bound to"
        self._owner[sequence] = None

    def owner(self, sequence: int) -> int | None:
        return self._owner[sequence]

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
            if self._owner[hole] is not None:
                spare = self._last_free()
                if spare is None:
                    continue
                self._move(hole, spare, moves)
            self._move(outside.pop(), hole, moves)
        return moves

    def _last_free(self) -> int | None:
        for sequence in range(len(self._owner) - 1, -1, -1):
            if self._owner[sequence] is None:
                return sequence
        return None

    def _move(self, source: int, target: int, moves: list[tuple[int, int]]) -> None:
        assert self._owner[target] is None and self._owner[source] is not None
        self._owner[target], self._owner[source] = self._owner[source], None
        moves.append((source, target))
