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

    def __init__(self) -> None:
        self._asking: dict[int, int] = {}  # by tenant, those that go on or wait
        self._places: dict[int, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def turn(self, tenant_id: int) -> AsyncIterator[None]:
        """One of a tenant's turns. Raises QueueFull."""
        asking = self._asking.get(tenant_id, 0)
        if asking >= MOST_AT_ONCE + MOST_WAITING:
            message = f"{asking} requests of this tenant for its figures wait already; try again when one is answered"
            raise QueueFull(message, retry_after_s=RETRY_S)
        self._asking[tenant_id] = asking + 1
        places = self._places.setdefault(tenant_id, asyncio.Semaphore(MOST_AT_ONCE))
        try:
            async with places:
                yield
        finally:
            if self._asking[tenant_id] == 1:
                del self._asking[tenant_id], self._places[tenant_id]
            else:
                self._asking[tenant_id] -= 1
