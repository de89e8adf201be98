"""Sends tokens while they are generated: the hot path of the API.

One task per choice takes the new tokens and writes them as one body chunk, with one event per token. There is no queue
between stream and socket: while a client reads slowly, its tokens stay in the stream, whose length is bounded by the
request's own limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.types import Message, Scope, Send

from tenantd.api.connection import Connection
from tenantd.api.openai.answers import DONE, Answer, ChatAnswer, encode_line
from tenantd.api.openai.logprobs import LogprobEvents
from tenantd.api.openai.parted import PartedEvents
from tenantd.api.openai.recipient import Recipient
from tenantd.api.replies import encode_error
from tenantd.errors import TenantdError
from tenantd.live.streams import LiveStream
from tenantd.text.reading import Reading

SEND: Final = "tenantd.send"
"""Scope extension with the server's own `send`. Events bypass the framework's wrappers, which only matter for the start
of a response and cost as much as writing an event."""


class ClientStalled(Exception):
    """The client read nothing for the write timeout, so its connection was closed."""


class EventWriter:
    """Writes server-sent events after the response has started. Raises ClientStalled."""

    def __init__(
        self,
        connection: Connection,
        scope: Scope,
        timeout_s: float,
        recipient: Recipient,
        record: Callable[[bytes], None] | None = None,
    ) -> None:
        """`record` is called with everything that is written."""
        self._connection = connection
        self._record = record
        self._recipient = recipient
        self._send: Send = scope["extensions"][SEND]
        self._timeout_s = timeout_s

    async def write(self, events: bytes, stream: LiveStream) -> None:
        """Write one chunk of complete events of a stream. Raises EngineFailure if it is not the recipient's."""
        self._recipient.check(stream)
        if self._record is not None:
            self._record(events)
        message: Message = {"type": "http.response.body", "body": events, "more_body": True}
        if self._connection.write_paused:
            await self._patiently(message)
        else:
            await self._send(message)

    async def done(self, events: bytes) -> None:
        """End a complete answer, after its last `events`."""
        await self.end(events + DONE)

    async def fail(self, error: TenantdError) -> None:
        """End an incomplete answer. Sends no [DONE], so that it cannot be mistaken for a complete one."""
        await self.end(b"data: " + encode_error(error) + b"\n\n")

    async def end(self, events: bytes) -> None:
        """End an answer after its last `events`."""
        if self._record is not None:
            self._record(events)
        await self._patiently({"type": "http.response.body", "body": events, "more_body": False})

    async def _patiently(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(message)
        except TimeoutError:
            self._connection.abort()
            raise ClientStalled from None


async def pump(answer: Answer, index: int, stream: LiveStream, writer: EventWriter) -> None:
    """Write the text of one choice as it arrives, until the stream is finished. Raises ClientStalled, EngineFailure."""
    before, after = answer.text_frame(index)
    opening = answer.opening_event(index)
    logprobs = LogprobEvents(answer, index)
    while deltas := await stream.take():
        if deltas[0].logprobs is None and not logprobs.waiting:
            body = b"".join([before + encode_line(delta.text) + after for delta in deltas if delta.text])
        else:
            body = logprobs.take(deltas)
        if body:
            await writer.write(opening + body, stream)
            opening = b""
    # Tokens that still wait have no text: they belong to a stop string and are not part of the answer.
    if opening:
        await writer.write(opening, stream)


async def pump_parts(answer: ChatAnswer, index: int, stream: LiveStream, writer: EventWriter, reading: Reading) -> bool:
    """As `pump`, with reasoning and calls told apart from the content. True if there were calls."""
    events = PartedEvents(answer, index, reading)
    opening = answer.opening_event(index)
    while deltas := await stream.take():
        if body := events.take(deltas):
            await writer.write(opening + body, stream)
            opening = b""
    if body := opening + events.finish():
        await writer.write(body, stream)
    return events.calls > 0
