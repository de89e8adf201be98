"""Runs work only while its client stays connected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`. If the client disconnects first, cancel it and raise ClientDisconnect.

    The request must have no body, or the body must have been read.
    """
    doing = asyncio.ensure_future(work)
    await asyncio.sleep(0)  # most work is done at once and needs no watching
    if not doing.done():
        going = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({doing, going}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            going.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.gather(doing, return_exceptions=True)
    if doing.cancelled():
        raise ClientDisconnect
    return doing.result()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
