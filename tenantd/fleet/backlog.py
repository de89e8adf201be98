"""Requests that wait in the daemon until the engine has a place for them. Pure.

The engine holds a window of each tenant's requests, so that one tenant's requests need only bounded memory there and do
not delay others on the way. A tenant's requests go in order of arrival; tenants take turns.
"""

from __future__ import annotations

from typing import Final

from tenantd.live.streams import LiveStream

WINDOW_PER_SLOT: Final = 2
"""A tenant's places in the engine per slot: all running requests may end in one step, and as many can follow at
once."""


class Backlog:
    """Every tenant's line of waiting requests, and its places in one engine."""

    def __init__(self, slots: int = 0) -> None:
        """Set the number of slots of the engine; with 0, no request is sent."""
        self._window = WINDOW_PER_SLOT * slots
        self._lines: dict[str, dict[int, LiveStream]] = {}  # by number, the oldest first; none is empty
        self._places: dict[str, set[int]] = {}  # numbers of the requests that have one; none is empty
        self._turns: dict[str, None] = {}  # tenants with a line and a free place; the first is next
        self._told: set[str] = set()  # tenants whose lines the engine knows of
        self._touched: dict[str, None] = {}  # tenants whose lines may have begun or ended since it was told

    def add(self, stream: LiveStream) -> None:
        """Add a request at the end of its tenant's line."""
        self._lines.setdefault(stream.tenant, {})[stream.number] = stream
        self._look_at(stream.tenant)

    def take(self) -> LiveStream | None:
        """The next request to send, which takes one of its tenant's places; None if none can be sent."""
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
        """Free the place of a request that has ended or is about to be cancelled. Safe to call twice."""
        line, places = self._lines.get(stream.tenant, {}), self._places.get(stream.tenant, set())
        line.pop(stream.number, None)
        places.discard(stream.number)
        self._look_at(stream.tenant)

    def news(self) -> list[tuple[str, bool]]:
        """Tenants whose line has begun or ended since the last call."""
        news = [(tenant, tenant in self._lines) for tenant in self._touched]
        self._touched.clear()
        news = [(tenant, exists) for tenant, exists in news if exists != (tenant in self._told)]
        self._told ^= {tenant for tenant, _ in news}
        return news

    def check_empty(self) -> None:
        """Invariant: nothing is live, so there are no lines and no places."""
        assert not self._lines and not self._places and not self._turns, f"left over: {self._lines}, {self._places}"

    def _look_at(self, tenant: str) -> None:
        """Update a tenant's turn after a change of its line or places."""
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
