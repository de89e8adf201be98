"""Requests that wait in the daemon until the engine has a place for them. Pure.

The engine holds a window of each tenant's requests: so what one tenant sends takes bounded memory there, and holds up
nobody else's on the way. A tenant's own go in the order they came; tenants take turns.
"""

from __future__ import annotations

from typing import Final

from tenantd.live.streams import LiveStream

WINDOW_PER_SLOT: Final = 2
"""A tenant's places in the engine, by slots: all that run may end in one step, and as many are there to follow."""


class Backlog:
    """Owner of every tenant's line, and of its places in one engine."""

    def __init__(self, slots: int = 0) -> None:
        """Of an engine with so many slots; of none, nothing is taken."""
        self._window = WINDOW_PER_SLOT * slots
        self._lines: dict[str, dict[int, LiveStream]] = {}  # by number, the oldest first; none is empty
        self._places: dict[str, set[int]] = {}  # numbers of the requests that have one; none is empty
        self._turns: dict[str, None] = {}  # tenants with a line and a free place; the first is next
        self._told: set[str] = set()  # tenants whose lines the engine knows of
        self._touched: dict[str, None] = {}  # tenants whose lines may have begun or ended since it was told

    def add(self, stream: LiveStream) -> None:
        """To the end of its tenant's line."""
        self._lines.setdefault(stream.tenant, {})[stream.number] = stream
        self._look_at(stream.tenant)

    def take(self) -> LiveStream | None:
        """The next to go to the engine, where it takes one of its tenant's places; None when none may go."""
        if (tenant := next(iter(self._turns), None)) is None:
            return None
        del self._turns[tenant]  # to the end of the turns, if it has more
        line = self._lines[tenant]
        number = next(iter(line))
        stream = line.pop(number)
        self._places.setdefault(tenant, set()).add(number)
        self._look_at(tenant)
        return stream

    def leave(self, stream: LiveStream) -> None:
        """It has ended, or the engine is about to be told to end it: its place is free. Safe to call twice."""
        line, places = self._lines.get(stream.tenant, {}), self._places.get(stream.tenant, set())
        line.pop(stream.number, None)
        places.discard(stream.number)
        self._look_at(stream.tenant)

    def news(self) -> list[tuple[str, bool]]:
        """Tenants that have a line now and had none when this was last asked, and the other way round."""
        news = [(tenant, tenant in self._lines) for tenant in self._touched]
        self._touched.clear()
        news = [(tenant, exists) for tenant, exists in news if exists != (tenant in self._told)]
        self._told ^= {tenant for tenant, _ in news}
        return news

    def check_empty(self) -> None:
        """Conservation: nothing is live, so nobody waits and nobody has a place."""
        assert not self._lines and not self._places and not self._turns, f"left over: {self._lines}, {self._places}"

    def _look_at(self, tenant: str) -> None:
        """After a change of its line or its places."""
        line, places = self._lines.get(tenant), self._places.get(tenant)
        if places is not None and not places:
            del self._places[tenant]
        if line is not None and not line:
            del self._lines[tenant]
        if line and len(places or ()) < self._window:
            self._turns.setdefault(tenant)
        else:
            self._turns.pop(tenant, None)
        self._touched[tenant] = None
