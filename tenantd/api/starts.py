"""Lets each owner begin one request in each turn of the event loop, so that many at once keep nobody else waiting.

Whoever sends one request at a time never waits here. Without this, a turn in which one tenant asks for its limits on
200 connections takes half a second, and a short completion of its neighbour takes a dozen turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class Starts:
    """Requests that wait to begin. Call it only in the event loop."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[asyncio.Future[None]]] = {}  # of owners that began one in this turn
        self._is_due = False

    async def wait(self, owner: Hashable) -> None:
        """Return when it is the turn of a request of this owner."""
        if (line := self._lines.get(owner)) is None:
            self._lines[owner] = deque()
            self._go_on()
            return
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        await turn

    def _go_on(self) -> None:
        if self._lines and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._is_due = False
        for owner, line in list(self._lines.items()):
            while line and line[0].done():  # cancelled
                line.popleft()
            if line:
                line.popleft().set_result(None)
            else:
                del self._lines[owner]
        self._go_on()
