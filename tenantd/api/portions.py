"""Sends an answer in portions, so that of a large one only little waits for a slow reader in the server's buffers."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tenantd.api.connection import connection_of
from tenantd.api.operations import JSON
from tenantd.request_ids import new_request_id

PORTION_BYTES: Final = 64 * 1024
"""Written at once; then everybody else has a turn."""
LEAST_BYTES_PER_S: Final = 512 * 1024
"""A reader that is slower on average gets no more than `timeout_s` beyond this: others may wait for the memory."""


async def send_portions(body: bytes, send: Send, timeout_s: float) -> None:
    """Send a whole body, after the start of the answer. Raises TimeoutError if a portion takes longer than this, or all
    of it so much longer than at `LEAST_BYTES_PER_S`."""
    view = memoryview(body)
    async with asyncio.timeout(timeout_s + len(view) / LEAST_BYTES_PER_S):
        for start in range(0, max(1, len(view)), PORTION_BYTES):
            if start:
                await asyncio.sleep(0)
            end = start + PORTION_BYTES
            async with asyncio.timeout(timeout_s):
                await send(
                    {"type": "http.response.body", "body": bytes(view[start:end]), "more_body": end < len(view)},
                )


class Portions(Response):
    """A JSON answer that may be large. The connection of a client that reads nothing for `timeout_s`, or all too
    slowly, is closed."""

    def __init__(self, body: bytes, timeout_s: float, headers: dict[str, str] | None = None) -> None:
        super().__init__(body, headers={"x-request-id": new_request_id(), **(headers or {})}, media_type=JSON)
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await send_portions(bytes(self.body), send, self._timeout_s)
        except TimeoutError:
            connection_of(scope).abort()
