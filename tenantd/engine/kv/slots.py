"""Which llama.cpp sequence belongs to which request, and keeping the decoding ones side by side.

With one KV stream per sequence, llama.cpp decodes only consecutive sequence ids in one pass (llama-batch.cpp,
split_equal): ids 0,1,3 cost two passes. `compact` says which sequences to move so that one pass is enough. Pure.
"""

from __future__ import annotations

from collections.abc import Set


class Slots:
    """Owner of the sequence ids 0 .. n-1. A sequence is bound to one request at a time, or to none."""

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
        """Unbind. The caller clears the sequence's cells before it is taken again."""
        assert self._owner[sequence] == request, "a sequence is released by the request it is bound to"
        self._owner[sequence] = None

    def owner(self, sequence: int) -> int | None:
        return self._owner[sequence]

    def compact(self, decoding: Set[int]) -> list[tuple[int, int]]:
        """Moves (from, to) that make the sequence ids in `decoding` consecutive; applied here at once.

        Every target is free when its move is made, in order. Holes held by a request still in prefill are cleared by
        moving it to a free sequence; where none is free, the hole stays and the pass is split.
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
