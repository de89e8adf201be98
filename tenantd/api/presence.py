"""Work for a client that may go away before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises. It is cancelled when the client goes, and ClientDisconnect raised.

    The request's body must have been read, or there be none.
    """
    doing = asyncio.ensure_future(work)
    await asyncio.sleep(0)  # most of it is done at once, and nobody needs to be watched
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
