"""Keeps the state of swapped-out sequences in host memory, within one byte budget. Pure.

The engine copies the bytes; this module decides how many there may be, and knows whose they are.
"""

from __future__ import annotations

from tenantd.engine.compute import EngineBroken, Swapped


class States:
    """The state of every swapped-out request, until it is swapped in or freed."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._kept: dict[int, Swapped] = {}
        self._kept_bytes = 0
        self.discarded: list[Swapped] = []  # to be freed: see `take_discarded`
        self._bytes_per_token = 0.0  # as seen last

    @property
    def room_bytes(self) -> int:
        """The unused part of the budget."""
        return self._budget_bytes - self._kept_bytes

    def fits(self, tokens: int) -> bool:
        """Whether the state of a sequence with this many tokens fits, judging by the last states."""
        return tokens * self._bytes_per_token <= self.room_bytes

    def keep(self, request: int, state: Swapped, tokens: int) -> None:
        """Keep the state of an emptied sequence with this many computed tokens. A state of 0 bytes did not fit.

        Raises EngineBroken if it is another request's, or the request has one already.
        """
        _check(state, request)
        if request in self._kept:
            raise EngineBroken(f"request {request} has two states")
        self._kept[request] = state
        self._kept_bytes += state.size_bytes
        if state.size_bytes:
            self._bytes_per_token = state.size_bytes / max(1, tokens)
        elif tokens:
            self._bytes_per_token = max(self._bytes_per_token, (self.room_bytes + 1) / tokens)

    def take(self, request: int) -> Swapped | None:
        """Remove and return a request's state, to swap it in; None if there is none. Raises EngineBroken if it is
        another's."""
        if (state := self._kept.pop(request, None)) is not None:
            _check(state, request)
            self._kept_bytes -= state.size_bytes
        return state

    def discard(self, request: int) -> None:
        """Mark the state of a request that has ended, if any, to be freed."""
        if self._kept and (state := self.take(request)) is not None:
            self.discarded.append(state)

    def take_discarded(self) -> list[Swapped]:
        """The states marked since the last call."""
        discarded, self.discarded = self.discarded, []
        return discarded

    def requests(self) -> set[int]:
        """The requests whose state is kept."""
        return set(self._kept)

    def check(self) -> None:
        """Check invariants: the bytes add up and are within the budget."""
        kept_bytes = sum(state.size_bytes for state in self._kept.values())
        assert kept_bytes == self._kept_bytes <= self._budget_bytes, "kept bytes add up within their budget"


def _check(state: Swapped, request: int) -> None:
    if state.request != request:
        raise EngineBroken(f"the state of request {state.request} was taken for that of request {request}")
