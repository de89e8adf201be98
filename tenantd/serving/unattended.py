"""Responses that are made while no client waits for them. They never touch the disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from tenantd.errors import Conflict
from tenantd.live.streams import LiveStream

MOST_OF_A_TENANT: Final = 64
"""So many at a time; they count towards its limits as well, as any request does."""


class Made(msgspec.Struct, frozen=True, eq=False):
    """A response that is being made: what is shown of it meanwhile, its stream, and what makes it."""

    body: bytes
    stream: LiveStream
    work: asyncio.Task[None]


class Background:
    """All of them, by the number of their tenant and their id. Call it only in the event loop."""

    def __init__(self) -> None:
        self._made: dict[int, dict[str, Made]] = {}
        self._places: Counter[int] = Counter()  # of those that are being admitted; none is 0

    @contextmanager
    def place(self, tenant_id: int) -> Iterator[None]:
        """Hold a place for one while it is admitted, which may take until a limit lets it in. Call `begin` right after.

        Raises Conflict if the tenant has as many as it may have.
        """
        if len(self._made.get(tenant_id, ())) + self._places[tenant_id] >= MOST_OF_A_TENANT:
            raise Conflict(
                f"background: {MOST_OF_A_TENANT} responses of this tenant are being made in the background; wait until "
                "one is complete, or cancel one",
                param="background",
                retry_after_s=1,
            )
        self._places[tenant_id] += 1
        try:
            yield
        finally:
            self._places -= Counter([tenant_id])  # drops what is 0

    def begin(self, tenant_id: int, response_id: str, body: bytes, stream: LiveStream, work: Awaitable[None]) -> None:
        """Go on with `work` until the response is complete."""

        async def make() -> None:
            try:
                await work
            finally:
                mine = self._made[tenant_id]
                del mine[response_id]
                if not mine:
                    del self._made[tenant_id]

        self._made.setdefault(tenant_id, {})[response_id] = Made(body, stream, asyncio.create_task(make()))

    def find(self, tenant_id: int, response_id: str) -> Made | None:
        """The response of this tenant with this id, if it is being made."""
        return self._made.get(tenant_id, {}).get(response_id)
