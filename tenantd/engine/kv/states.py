"""What is kept of sequences outside their slots: state in host memory, within one byte budget. Pure.

The engine copies the bytes. Here is decided how many there may be, and whose they are.
"""

from __future__ import annotations

from tenantd.engine.compute import Swapped


class States:
    """Owner of the state of every request that gave its sequence away, by request, until it goes back or is freed."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._kept: dict[int, Swapped] = {}
        self._kept_bytes = 0
        self._discarded: list[Swapped] = []
        self._bytes_per_token = 0.0  # as seen last

    @property
    def room_bytes(self) -> int:
        """What is left of the budget."""
        return self._budget_bytes - self._kept_bytes

    def fits(self, tokens: int) -> bool:
        """The state of a sequence of this many tokens can be kept, as far as the last ones tell."""
        return tokens * self._bytes_per_token <= self.room_bytes

    def keep(self, request: int, state: Swapped, tokens: int) -> None:
        """A sequence of this many computed tokens was emptied. Without bytes, there was no room for its state."""
        assert request not in self._kept, "a request has one state"
        self._kept[request] = state
        self._kept_bytes += state.size_bytes
        if state.size_bytes:
            self._bytes_per_token = state.size_bytes / max(1, tokens)
        elif tokens:
            self._bytes_per_token = max(self._bytes_per_token, (self.room_bytes + 1) / tokens)

    def take(self, request: int) -> Swapped | None:
        """Its state, to be put back into a sequence; None when there is none."""
        if (state := self._kept.pop(request, None)) is not None:
            self._kept_bytes -= state.size_bytes
        return state

    def discard(self, request: int) -> None:
        """A request has ended: its state is to be freed, if there is one."""
        if self._kept and (state := self.take(request)) is not None:
            self._discarded.append(state)

    @property
    def has_discarded(self) -> bool:
        """There is something to free."""
        return bool(self._discarded)

    def take_discarded(self) -> list[Swapped]:
        """What is to be freed since the last call."""
        discarded, self._discarded = self._discarded, []
        return discarded

    def requests(self) -> set[int]:
        """Those whose state is kept."""
        return set(self._kept)

    def check(self) -> None:
        """Conservation: the bytes add up, within their budget."""
        kept_bytes = sum(state.size_bytes for state in self._kept.values())
        assert kept_bytes == self._kept_bytes <= self._budget_bytes, "kept bytes add up within their budget"
