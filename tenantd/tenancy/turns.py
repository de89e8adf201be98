"""How much one tenant may ask for at the same time. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tenantd.errors import QueueFull

MOST_AT_ONCE: Final = 2
MOST_WAITING: Final = 16
RETRY_S: Final = 1


class Turns:
    """At most MOST_AT_ONCE of each tenant go on; at most MOST_WAITING more wait for them, in their order."""

    def __init__(self, what: str = "for its figures") -> None:
        """`what` a tenant asks for, as it is told."""
        self._what = what
        self._asking: dict[int | str, int] = {}  # by tenant, those that go on or wait
        self._places: dict[int | str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def turn(self, tenant: int | str) -> AsyncIterator[None]:
        """One of the turns of a tenant, by its id or name. Raises QueueFull."""
        asking = self._asking.get(tenant, 0)
        if asking >= MOST_AT_ONCE + MOST_WAITING:
            message = f"{asking} requests of this tenant {self._what} already wait; try again when one is answered"
            raise QueueFull(message, retry_after_s=RETRY_S)
        self._asking[tenant] = asking + 1
        places = self._places.setdefault(tenant, asyncio.Semaphore(MOST_AT_ONCE))
        try:
            async with places:
                yield
        finally:
            if self._asking[tenant] == 1:
                del self._asking[tenant], self._places[tenant]
            else:
                self._asking[tenant] -= 1
