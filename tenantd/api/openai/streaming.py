"""Sending tokens while they are generated: the hot path of the API.

One task per choice takes what is new and writes it as one body chunk, one event per token. There is no queue between
the stream and the socket: while a client reads slowly its tokens stay in the stream, which the request's own limit
bounds.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Message, Scope, Send

from tenantd.api.connection import Connection
from tenantd.api.openai.answers import DONE, Answer, encode_line
from tenantd.api.replies import encode_error
from tenantd.errors import TenantdError
from tenantd.live.streams import Delta, LiveStream

SEND: Final = "tenantd.send"
"""Scope extension with the server's own `send`: events skip the framework's wrappers, which are there for the start of
a response and cost as much as writing an event does."""


class ClientStalled(Exception):
    """The client has read nothing for the write timeout; its connection is closed."""


class EventWriter:
    """Writes server-sent events after the response's start. Raises ClientStalled."""

    def __init__(self, connection: Connection, scope: Scope, timeout_s: float) -> None:
        self._connection = connection
        self._send: Send = scope["extensions"][SEND]
        self._timeout_s = timeout_s

    async def write(self, events: bytes) -> None:
        """One chunk of whole events."""
        message: Message = {"type": "http.response.body", "body": events, "more_body": True}
        if self._connection.write_paused:
            await self._patiently(message)
        else:
            await self._send(message)

    async def done(self, events: bytes) -> None:
        """The end of a complete answer, after its last `events`."""
        await self._patiently({"type": "http.response.body", "body": events + DONE, "more_body": False})

    async def fail(self, error: TenantdError) -> None:
        """The end of an answer that is not complete. No [DONE]: it must not be taken for the whole."""
        event = b"data: " + encode_error(error) + b"\n\n"
        await self._patiently({"type": "http.response.body", "body": event, "more_body": False})

    async def _patiently(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(message)
        except TimeoutError:
            self._connection.abort()
            raise ClientStalled from None


async def pump(answer: Answer, index: int, stream: LiveStream, writer: EventWriter) -> None:
    """Write one choice's text as it comes, until the stream is finished. Raises ClientStalled."""
    before, after = answer.text_frame(index)
    opening = answer.opening_event(index)
    logprobs = LogprobEvents(answer, index)
    while deltas := await stream.take():
        if deltas[0].logprobs is None and not logprobs.waiting:
            body = b"".join([before + encode_line(delta.text) + after for delta in deltas if delta.text])
        else:
            body = logprobs.take(deltas)
        if body:
            await writer.write(opening + body)
            opening = b""
    # What still waits has no text: it belonged to a stop string, and the answer does not have it.
    if opening:
        await writer.write(opening)


class LogprobEvents:
    """Events with logprobs. A token whose text is held back waits for the text."""

    def __init__(self, answer: Answer, index: int) -> None:
        self._answer = answer
        self._index = index
        self._characters = 0
        self.waiting: list[Delta] = []

    def take(self, deltas: list[Delta]) -> bytes:
        """The events that are complete."""
        events: list[bytes] = []
        for delta in deltas:
            self.waiting.append(delta)
            if delta.text:
                events.append(self._event())
        return b"".join(events)

    def _event(self) -> bytes:
        """One of all that waits."""
        event = self._answer.logprobs_event(self._index, self.waiting, self._characters)
        self._characters += sum(len(delta.text) for delta in self.waiting)
        self.waiting = []
        return event
