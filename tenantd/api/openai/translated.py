"""Answers in the form of another API than chat completions. The request becomes a chat and runs like one; only how it
is read and how its answer is written differ.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tenantd.api.connection import connection_of
from tenantd.api.names import Names
from tenantd.api.openai.exchange import STREAM_HEADERS, Exchange, has_ended_well
from tenantd.api.openai.parted import merged
from tenantd.api.openai.recipient import Recipient
from tenantd.api.openai.streaming import EventWriter
from tenantd.api.openai.types import ChatRequest
from tenantd.api.replies import reply
from tenantd.domain import FinishReason, Tenant, Tier, as_billed
from tenantd.errors import EngineFailure, TenantdError, TokenUsage
from tenantd.live.streams import Delta, LiveStream
from tenantd.text.calls import Part
from tenantd.text.reading import Reading


class Ending(NamedTuple):
    """How a complete answer ended. `is_cut`: it has all the tokens that it may have. `is_stopped`: by a stop string."""

    usage: TokenUsage
    reasoning_tokens: int
    is_cut: bool
    is_stopped: bool
    is_out_of_budget: bool


class Written(ABC):
    """Writes one answer. Parts are taken as they come, also if it is not streamed; `whole` is what they add up to."""

    @abstractmethod
    def opening(self) -> bytes:
        """The events before all parts."""

    @abstractmethod
    def take(self, parts: list[Part]) -> bytes:
        """The events of more parts."""

    @abstractmethod
    def closing(self, ending: Ending) -> bytes:
        """The events after all parts."""

    @abstractmethod
    def failure(self, error: TenantdError) -> bytes:
        """The last event of an answer that is not complete."""

    @abstractmethod
    def whole(self, ending: Ending) -> dict[str, Any]:
        """The body of an answer that is not streamed. Called instead of `closing`."""


class Translation(ABC):
    """One request of another API. It belongs to one client's request and is used in this order, up to `close`."""

    tier: Tier | None = None

    @abstractmethod
    def read(self, tenant: Tenant, raw: bytes, names: Names) -> ChatRequest:
        """The chat for a body; runs in a thread. Raises InvalidRequest."""

    def begin(self, tier: Tier | None) -> None:
        """The request is valid and will run in this `service_tier`, if it asks for one."""
        self.tier = tier

    @abstractmethod
    def answer(self, request_id: str, model: str, created_s: int, usage: TokenUsage) -> Written:
        """What writes the answer, once it has its first token; `usage` is what it has used so far."""

    def exchange(self, *args: Any, **more: Any) -> TranslatedExchange:
        """What runs it and sends its answer."""
        return TranslatedExchange(self, *args, **more)

    def close(self) -> None:  # noqa: B027
        """Nothing of it is needed any more. Safe to call twice."""


@contextlib.contextmanager
def closing(translation: Translation) -> Iterator[None]:
    """Closes a translation if what follows fails; otherwise its exchange does."""
    try:
        yield
    except BaseException:
        translation.close()
        raise


class TranslatedExchange(Exchange):
    """Runs one generation and sends its answer as its translation writes it."""

    def __init__(self, translation: Translation, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._translation = translation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._translation.close()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        [stream], [generation] = self._streams, self._generations
        created_s = stream.created_micros // 1_000_000
        written = self._translation.answer(
            stream.id, self._service.config.model_name, created_s, as_billed([stream.usage])
        )
        parts = Parts(generation.reading or Reading())
        if self._streamed:
            await self._send_events(written, parts, stream, scope, send)
        else:
            await (await self._collected(written, parts, stream, scope))(scope, receive, send)

    async def _collected(self, written: Written, parts: Parts, stream: LiveStream, scope: Scope) -> Response:
        while deltas := await stream.take():
            written.take(parts.take(deltas))
        written.take(parts.finish())
        self._check(Recipient(scope, self._service))
        if failed := self._failure():
            return self._refuse(scope, failed)
        headers = self._more_headers | self._queue_header()
        response = reply(written.whole(parts.ending(stream)), request_id=stream.id, headers=headers)
        self._record_whole(response)
        return response

    async def _send_events(self, written: Written, parts: Parts, stream: LiveStream, scope: Scope, send: Send) -> None:
        headers = {"x-request-id": stream.id, **self._more_headers, **self._queue_header(), **STREAM_HEADERS}
        start = Response(headers=headers, media_type="text/event-stream")
        del start.headers["content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": start.raw_headers})
        recording = None if self._attempt is None else self._attempt.recording
        if recording is not None:
            recording.begin(200, start.raw_headers)
        recipient, timeout_s = Recipient(scope, self._service), self._service.config.server.write_timeout_s
        record = None if recording is None else recording.add
        writer = EventWriter(connection_of(scope), scope, timeout_s, recipient, record)
        try:
            opening = written.opening()
            while deltas := await stream.take():
                if body := opening + written.take(parts.take(deltas)):
                    await writer.write(body, stream)
                    opening = b""
            last = opening + written.take(parts.finish())
            if has_ended_well(stream):
                await writer.write(last + written.closing(parts.ending(stream)), stream)
        except EngineFailure as e:
            self._mixed_up = e
        self._check(recipient)
        failed = self._failure()
        try:
            await writer.end(b"" if failed is None else written.failure(self._shown(failed, scope)))
        finally:
            if recording is not None and not (failed is not None and self._client_gone):
                recording.complete()


class Parts:
    """Reads one answer, and counts the tokens of its reasoning."""

    def __init__(self, reading: Reading) -> None:
        self._reader = reading.reader()
        self._reasoning_tokens = 0

    def take(self, deltas: list[Delta]) -> list[Part]:
        found: list[Part] = []
        for delta in deltas:
            parts = self._reader.push(delta.text) if delta.text else []
            if delta.token >= 0 and parts and all(part.kind == "reasoning" for part in parts):
                self._reasoning_tokens += 1
            found += parts
        return merged(found)

    def finish(self) -> list[Part]:
        return merged(self._reader.finish())

    def ending(self, stream: LiveStream) -> Ending:
        is_cut = stream.finish_reason is FinishReason.LENGTH
        return Ending(
            usage=as_billed([stream.usage]),
            reasoning_tokens=min(self._reasoning_tokens, stream.usage.completion_tokens),
            is_cut=is_cut,
            is_stopped=stream.is_stopped and not is_cut,
            is_out_of_budget=stream.is_out_of_budget,
        )
