"""Requests that wait in the daemon until the engine has a place for them. Pure.

The engine holds a window of each tenant's requests, so that one tenant's requests need only bounded memory there and do
not delay others on the way. A tenant's requests go in order of arrival; its flex requests have a line and a window of
their own, behind which the others never wait. Tenants take turns.
"""

from __future__ import annotations

from typing import Final

from tenantd.live.streams import LiveStream
from tenantd.wire.messages import Backlog as News

WINDOW_PER_SLOT: Final = 2
"""Places in the engine per slot: all running requests may end in one step, and as many can follow at once."""

_Line = tuple[str, bool]
"""A tenant, and whether the requests are flex."""


class Backlog:
    """Every tenant's lines of waiting requests, and its places in one engine."""

    def __init__(self, slots: int = 0) -> None:
        """Set the number of slots of the engine; with 0, no request is sent."""
        self._window = WINDOW_PER_SLOT * slots
        self._lines: dict[_Line, dict[int, LiveStream]] = {}  # by number, the oldest first; none is empty
        self._places: dict[_Line, set[int]] = {}  # numbers of the requests that have one; none is empty
        self._turns: dict[str, None] = {}  # tenants with a line and a free place; the first is next
        self._told: dict[str, News] = {}  # the lines that the engine knows of
        self._touched: dict[str, None] = {}  # tenants whose lines may have begun or ended since it was told

    def add(self, stream: LiveStream) -> None:
        """Add a request at the end of its tenant's line."""
        self._lines.setdefault(_line(stream), {})[stream.number] = stream
        self._look_at(stream)

    def take(self) -> LiveStream | None:
        """The next request to send, which takes one of its tenant's places; None if none can be sent."""
        if (tenant := next(iter(self._turns), None)) is None:
            return None
        del self._turns[tenant]  # to the end of the turns, if it has more
        key = next(line for line in _lines_of(tenant) if self._can_send(line))
        line = self._lines[key]
        number = next(iter(line))
        stream = line.pop(number)
        self._places.setdefault(key, set()).add(number)
        self._look_at(stream)
        return stream

    def leave(self, stream: LiveStream) -> None:
        """Free the place of a request that has ended or is about to be cancelled. Safe to call twice."""
        key = _line(stream)
        self._lines.get(key, {}).pop(stream.number, None)
        self._places.get(key, set()).discard(stream.number)
        self._look_at(stream)

    def news(self) -> list[News]:
        """What has changed about the lines since the last call."""
        news = [News(tenant, *self._state(tenant)) for tenant in self._touched]
        self._touched.clear()
        news = [each for each in news if each != self._told.get(each.tenant, News(each.tenant, False))]
        for each in news:
            if each.exists:
                self._told[each.tenant] = each
            else:
                del self._told[each.tenant]
        return news

    def check_empty(self) -> None:
        """Invariant: nothing is live, so there are no lines and no places."""
        assert not self._lines and not self._places and not self._turns, f"left over: {self._lines}, {self._places}"

    def _state(self, tenant: str) -> tuple[bool, bool]:
        """Whether it has a line, and whether it has only one of flex requests."""
        ordinary, flex = (line in self._lines for line in _lines_of(tenant))
        return ordinary or flex, flex and not ordinary

    def _can_send(self, line: _Line) -> bool:
        return line in self._lines and len(self._places.get(line, ())) < self._window

    def _look_at(self, stream: LiveStream) -> None:
        """Update the turn of a request's tenant after a change of its lines or places."""
        key, tenant = _line(stream), stream.tenant
        for owner in (self._places, self._lines):
            if key in owner and not owner[key]:
                del owner[key]
        if any(self._can_send(line) for line in _lines_of(tenant)):
            self._turns.setdefault(tenant)
        else:
            self._turns.pop(tenant, None)
        self._touched[tenant] = None


def _line(stream: LiveStream) -> _Line:
    return stream.tenant, stream.is_flex


def _lines_of(tenant: str) -> tuple[_Line, _Line]:
    """Its lines, the first to be sent first."""
    return (tenant, False), (tenant, True)
