"""Shares the event loop's time for parsing requests, so that what is costly to parse keeps nobody else waiting.

What a connection receives is parsed at once for SLICE_S, which is enough for nearly everything. What is left then
waits, and the connection is not read meanwhile. In each of its turns the loop parses what waits for TURN_S, a slice for
one connection of each owner after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final

from uvicorn.protocols.http.flow_control import FlowControl

SLICE_S: Final = 0.0005
TURN_S: Final = 0.002

Parse = Callable[[], bool]


class Turns:
    """Those that wait to parse. Call it only in the event loop."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._waiting: dict[Hashable, deque[Parse]] = {}  # by owner; the owner whose turn it is first
        self._is_due = False

    def wait(self, owner: Hashable, parse: Parse) -> None:
        """Call `parse` in later turns of the loop until it returns False. It takes about SLICE_S."""
        self._waiting.setdefault(owner, deque()).append(parse)
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        until_s = self._now_s() + TURN_S
        try:
            while self._waiting and self._now_s() < until_s:
                self._next()
        finally:  # whatever one of them raises, the others go on
            self._is_due = False
            self._go_on()

    def _next(self) -> None:
        owner = next(iter(self._waiting))
        own = self._waiting.pop(owner)
        parse = own.popleft()
        if own:
            self._waiting[owner] = own  # behind the others
        if parse():
            self._waiting.setdefault(owner, deque()).append(parse)


class Flow(FlowControl):
    """uvicorn's, with a second reason not to read: what has been read waits to be parsed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_held = False

    def hold(self) -> None:
        """Read nothing until `release`."""
        self._is_held = True
        self._transport.pause_reading()

    def release(self) -> None:
        """Read again, unless the application takes nothing. Safe if nothing was held."""
        if self._is_held:
            self._is_held = False
            if not self.read_paused and not self._transport.is_closing():
                self._transport.resume_reading()

    def resume_reading(self) -> None:
        """Called when the application takes more."""
        if self._is_held:
            self.read_paused = False
        else:
            super().resume_reading()
