"""Requests that nobody pays for take turns: those on TCP that show no right key.

Each takes about a millisecond of the event loop, which all tenants need, and costs its sender next to nothing. So an
address has a few at once and then a steady rate, and all addresses together get a part of the loop's time, in turns.
A connection whose request waits is not read, so it costs nothing meanwhile, and its sender cannot ask for more.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final

from tenantd.errors import TenantdError

if TYPE_CHECKING:
    from tenantd.api.connection import Connection

INTERVAL_S: Final = 0.02
"""Between two requests of an address, in the long run."""
BURST: Final = 32
"""Requests of an address that has been quiet that do not wait for each other."""
GAP_S: Final = 0.004
"""Between any two requests: several times what one takes, for the requests of others."""
MOST_ADDRESSES: Final = 4096
"""Remembered; the addresses that have been quiet longest are forgotten. They share the gap like all others."""
PATIENCE_S: Final = 10.0
"""How long a request may wait for its turn."""
RETRY_S: Final = 10


class TooManyStrangers(TenantdError):
    """Too many requests without a right key, for a request without one to have its turn in time."""

    code = "too_many_strangers"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class Unpaid:
    """Those of all listeners on TCP. Call it only in the event loop."""

    def __init__(self, loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.get_running_loop) -> None:
        self._loop = loop
        self._due_s: OrderedDict[str, float] = OrderedDict()  # when all that an address has used will be forgotten
        self._waiting: dict[str, dict[Connection, Callable[[], None]]] = {}
        self._order: list[tuple[float, int, str]] = []  # heap: each of `_waiting`, by the time of its next turn
        self._numbers = count()
        self._free_s = 0.0  # when the gap after the last turn ends
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def remembered(self) -> int:
        """How many addresses are remembered."""
        return len(self._due_s)

    def wait(self, address: str, connection: Connection, start: Callable[[], None]) -> None:
        """Call `start` when it is the connection's turn, which may be at once. It waits for one turn at a time."""
        if (own := self._waiting.get(address)) is None:
            own = self._waiting[address] = {}
            self._enqueue(address)
        own[connection] = start
        self._next()

    def leave(self, address: str, connection: Connection) -> None:
        """Wait no longer. Safe to call if the connection does not wait."""
        if (own := self._waiting.get(address)) is not None:
            own.pop(connection, None)

    def _enqueue(self, address: str) -> None:
        ready_s = self._due_s.get(address, 0.0) - (BURST - 1) * INTERVAL_S
        heapq.heappush(self._order, (max(ready_s, self._loop().time()), next(self._numbers), address))

    def _next(self) -> None:
        """Begin what may begin now, and come back for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._order:
            ready_s, _, address = self._order[0]
            now_s = self._loop().time()
            if (at_s := max(ready_s, self._free_s)) > now_s:
                self._timer = self._loop().call_at(at_s, self._next)
                return
            heapq.heappop(self._order)
            if not (own := self._waiting[address]):
                del self._waiting[address]  # not earlier: an address is in the heap once
                continue
            start = own.pop(next(iter(own)))
            self._note(address, now_s)
            self._enqueue(address)
            self._free_s = now_s + GAP_S
            start()

    def _note(self, address: str, now_s: float) -> None:
        self._due_s[address] = max(self._due_s.get(address, 0.0), now_s) + INTERVAL_S
        self._due_s.move_to_end(address)
        if len(self._due_s) > MOST_ADDRESSES:
            self._due_s.popitem(last=False)
