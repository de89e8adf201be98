"""Owns all state in host memory: of swapped-out requests, and of prefixes, each within a byte budget of its own. Pure.

The engine copies the bytes; this module decides how many there may be, and knows whose they are. The budgets are
separate, so that what one tenant has swapped out never takes the place of another's prefixes.
"""

from __future__ import annotations

from tenantd.engine.compute import EngineBroken, Kept, Swapped
from tenantd.engine.kv.shares import Shares
from tenantd.engine.speeds import Keeping


class States:
    """The state of every swapped-out request, until it is swapped in or freed, and of every prefix.

    `shares` are the bytes of the prefixes by owner. A prefix has its bytes reserved while it is still in a sequence, so
    that it can leave that at any time without pushing anything out. `keeping` tells which of requests are worth it;
    None: all.
    """

    def __init__(self, budget_bytes: int, cache_bytes: int = 0, keeping: Keeping | None = None) -> None:
        self._budget_bytes = budget_bytes
        self._keeping = keeping
        self.shares = Shares(cache_bytes)
        self._reserved: dict[int, tuple[int, int]] = {}  # by prefix: its owner, and bytes
        self._prefixes: dict[int, Kept] = {}  # those of them that have left their sequence
        self._kept: dict[int, Swapped] = {}
        self._kept_bytes = 0
        self._bytes_per_token = 0.0  # as seen last

    @property
    def room_bytes(self) -> int:
        """The unused part of the budget."""
        return self._budget_bytes - self._kept_bytes

    def room_for(self, recomputable: int) -> int:
        """How many bytes a state may take; 0 if it is not worth it, because these tokens of it are computed again
        sooner."""
        return self.room_bytes if self._keeping is None or self._keeping.decide(recomputable) else 0

    def fits(self, tokens: int, recomputable: int) -> bool:
        """Whether the state of a sequence with this many tokens fits, judging by the last states, or is not worth
        keeping."""
        if tokens * self._bytes_per_token <= self.room_bytes:
            return True
        return self._keeping is not None and not self._keeping.is_worth(recomputable)

    def keep(self, request: int, state: Swapped, tokens: int, recomputable: int) -> None:
        """Keep the state of an emptied sequence with this many tokens. A state of 0 bytes did not fit, or was not worth
        it, because these tokens of it are computed again sooner.

        Raises EngineBroken if it is another request's, or the request has one already.
        """
        _check(state, request)
        if request in self._kept:
            raise EngineBroken(f"request {request} has two states")
        self._kept[request] = state
        self._kept_bytes += state.size_bytes
        if state.size_bytes:
            self._bytes_per_token = state.size_bytes / max(1, tokens)
        elif tokens and (self._keeping is None or self._keeping.is_worth(recomputable)):
            self._bytes_per_token = max(self._bytes_per_token, (self.room_bytes + 1) / tokens)

    def take(self, request: int) -> Swapped | None:
        """Remove and return a request's state, to swap it in or to free it; None if there is none.

        Raises EngineBroken if it is another's.
        """
        if (state := self._kept.pop(request, None)) is not None:
            _check(state, request)
            self._kept_bytes -= state.size_bytes
        return state

    # ---- prefixes -------------------------------------------------------------------------------------------------

    def reserve(self, prefix: int, owner: int, size_bytes: int) -> None:
        """Take so many bytes of its owner's share for a prefix, or change how many it has. They must fit the budget."""
        self.release(prefix)
        self.shares.take(owner, size_bytes)
        self._reserved[prefix] = (owner, size_bytes)

    def put(self, kept: Kept) -> None:
        """Keep the state of a prefix that has bytes for it. Raises EngineBroken if it has one already."""
        if kept.prefix in self._prefixes:
            raise EngineBroken(f"prefix {kept.prefix} has two states")
        assert kept.size_bytes <= self._reserved[kept.prefix][1], "its bytes were reserved"
        self._prefixes[kept.prefix] = kept

    def of_prefix(self, prefix: int) -> Kept | None:
        """Its state; None if it is in a sequence. Raises EngineBroken if it is another's."""
        kept = self._prefixes.get(prefix)
        if kept is not None and kept.prefix != prefix:
            raise EngineBroken(f"the state of prefix {kept.prefix} was taken for that of prefix {prefix}")
        return kept

    def release(self, prefix: int) -> Kept | None:
        """Give its bytes back, if it has any. Returns its state, to be freed at once."""
        if (reserved := self._reserved.pop(prefix, None)) is not None:
            self.shares.give_back(*reserved)
        return self._prefixes.pop(prefix, None)

    def prefixes(self) -> set[int]:
        """The prefixes that have bytes."""
        return set(self._reserved)

    # ---- all of it ------------------------------------------------------------------------------------------------

    def requests(self) -> set[int]:
        """The requests whose state is kept."""
        return set(self._kept)

    def check(self) -> None:
        """Check invariants: the bytes add up and are within the budgets."""
        kept_bytes = sum(state.size_bytes for state in self._kept.values())
        assert kept_bytes == self._kept_bytes <= self._budget_bytes, "kept bytes add up within their budget"
        reserved_bytes = sum(size_bytes for _, size_bytes in self._reserved.values())
        shares = self.shares
        assert reserved_bytes == shares.used_bytes <= shares.budget_bytes, "those of prefixes add up within theirs"
        assert self._prefixes.keys() <= self._reserved.keys(), "every state has its bytes"


def _check(state: Swapped, request: int) -> None:
    if state.request != request:
        raise EngineBroken(f"the state of request {state.request} was taken for that of request {request}")
