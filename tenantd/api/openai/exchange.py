"""One request from admission to its last byte.

Each choice is a stream with its own row in the ledger; `x-request-id` is that of the first. The answer starts only when
every choice has its first token, so that earlier failures get a real HTTP status. If the client disconnects, decoding
stops and the tokens generated so far are billed.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tenantd.api.connection import connection_of
from tenantd.api.identity import actor_of, for_asker
from tenantd.api.openai.answers import CALLED, Answer, ChatAnswer
from tenantd.api.openai.recipient import Recipient
from tenantd.api.openai.streaming import ClientStalled, EventWriter, pump, pump_parts
from tenantd.api.openai.whole import Whole, collect
from tenantd.api.refusals import announce_refusal
from tenantd.api.replies import error_reply, reply
from tenantd.domain import FinishReason, Tenant, as_billed
from tenantd.errors import EngineFailure, RequestCancelled, TenantdError
from tenantd.live.generation import Generation
from tenantd.live.streams import LiveStream
from tenantd.printable import without_paths
from tenantd.serving.attempts import Attempt
from tenantd.serving.service import Service

log = logging.getLogger(__name__)

GOOD_ENDS: Final = (FinishReason.STOP, FinishReason.LENGTH)
QUEUE_HEADER: Final = "x-queue-position"
STREAM_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Exchange(Response):
    """Runs generations and sends their answer, whole or streamed."""

    def __init__(
        self,
        service: Service,
        tenant: Tenant,
        generations: list[Generation],
        answer_type: type[Answer] | None,
        *,
        timeout_s: float | None,
        streamed: bool,
        with_usage: bool,
        headers: dict[str, str],
        attempt: Attempt | None = None,
        service_tier: str | None = None,
    ) -> None:
        """`headers` are added to those of the answer. The answer is recorded for its `attempt`, which it lets go of,
        and tells its `service_tier` if there is one."""
        super().__init__()
        self._service = service
        self._tenant = tenant
        self._generations = generations
        self._answer_type = answer_type
        self._timeout_s = timeout_s
        self._streamed = streamed
        self._with_usage = with_usage
        self._more_headers = headers
        self._attempt = attempt
        self._service_tier = service_tier
        self._streams: list[LiveStream] = []
        self._submitting: asyncio.Task[list[LiveStream]] | None = None
        self._client_gone = False
        self._mixed_up: EngineFailure | None = None  # a stream was not the recipient's

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._attempt is not None:
            self._attempt.is_answered = True
        watch = asyncio.create_task(self._abandon_when_gone(receive))
        try:
            await self._run(scope, receive, send)
        except* ClientStalled:
            log.info("%s: the client stopped reading", self._streams[0].id)
            await watch  # returns when the server notices that the connection is gone
        finally:
            watch.cancel()
            self._abandon()
            if self._attempt is not None:
                self._attempt.let_go()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._start(scope)
        except TenantdError as e:
            await self._refuse(scope, e)(scope, receive, send)
            return
        await self._respond(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, once every choice has its first token."""
        assert self._answer_type is not None, "others have an answer of their own"
        first, info = self._streams[0], self._service.supervisor.info
        answer = self._answer_type(
            request_id=first.id,
            model=self._service.config.model_name,
            created_s=first.created_micros // 1_000_000,
            vocabulary=self._service.vocabulary,
            with_usage=self._with_usage,
            fingerprint="" if info is None else info.fingerprint,
            service_tier=self._service_tier,
        )
        if self._streamed:
            await self._stream(answer, scope, send)
        else:
            response = await self._whole(answer, scope)
            await response(scope, receive, send)

    async def _start(self, scope: Scope) -> None:
        """Admit all choices and wait for their first tokens. Raises the error of the first that fails."""
        await self._submit(scope)
        for stream in self._streams:
            await stream.started()

    async def _submit(self, scope: Scope) -> None:
        work = self._service.submit_all(
            self._tenant, self._generations, self._timeout_s, actor_of(scope), self._attempt
        )
        self._submitting = asyncio.create_task(work)
        try:
            self._streams = await self._submitting
        except asyncio.CancelledError:
            if self._client_gone and self._submitting.cancelled():
                raise ClientDisconnect from None  # the request was waiting for a limit and had not started
            raise
        if self._client_gone:
            self._abandon()

    async def _abandon_when_gone(self, receive: Receive) -> None:
        """Abandon the streams when the client disconnects. Also returns once the answer is complete."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._client_gone = True
        if self._submitting is not None:
            self._submitting.cancel()
        self._abandon()

    def _abandon(self) -> None:
        for stream in self._streams:
            stream.abandon()

    def _refuse(self, scope: Scope, error: TenantdError) -> Response:
        """The answer that is an error; announced unless the client left before it."""
        request_id = self._streams[0].id if self._streams else ""
        if not self._client_gone:
            announce_refusal(scope, error, request_id or None)
        answer = error_reply(self._shown(error, scope), request_id, path=scope["path"])
        if not self._client_gone:
            self._record_whole(answer)
        return answer

    def _shown(self, error: TenantdError, scope: Scope) -> TenantdError:
        """`error` as the asker may see it, and others of its tenant if it can be given again."""
        if self._attempt is None:
            return for_asker(error, scope)
        shown = copy.copy(error)
        shown.message = without_paths(error.message)
        return shown

    def _record_whole(self, answer: Response) -> None:
        if self._attempt is not None:
            recording = self._attempt.recording
            recording.begin(answer.status_code, answer.raw_headers)
            recording.add(bytes(answer.body))
            recording.complete()

    async def _whole(self, answer: Answer, scope: Scope) -> Response:
        wholes = [
            await collect(answer, stream, generation.reading)
            for stream, generation in zip(self._streams, self._generations, strict=True)
        ]
        self._check(Recipient(scope, self._service))
        if failed := self._failure():
            return self._refuse(scope, failed)
        choices = [
            _choice(answer, index, whole, stream)
            for index, (stream, whole) in enumerate(zip(self._streams, wholes, strict=True))
        ]
        usage = as_billed(stream.usage for stream in self._streams)
        response = reply(
            answer.whole(choices, usage, is_out_of_budget=any(stream.is_out_of_budget for stream in self._streams)),
            request_id=self._streams[0].id,
            headers=self._more_headers | self._queue_header(),
        )
        self._record_whole(response)
        return response

    async def _stream(self, answer: Answer, scope: Scope, send: Send) -> None:
        headers = {"x-request-id": self._streams[0].id, **self._more_headers, **self._queue_header(), **STREAM_HEADERS}
        start = Response(headers=headers, media_type="text/event-stream")
        del start.headers["content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": start.raw_headers})
        recipient = Recipient(scope, self._service)
        recording = None
        timeout_s = self._service.config.server.write_timeout_s
        if self._attempt is not None:
            recording = self._attempt.recording
            recording.begin(200, start.raw_headers)
        record = None if recording is None else recording.add
        writer = EventWriter(connection_of(scope), scope, timeout_s, recipient, record)
        if len(self._streams) == 1:
            await self._stream_choice(answer, 0, writer)
        else:
            async with asyncio.TaskGroup() as group:
                for index in range(len(self._streams)):
                    group.create_task(self._stream_choice(answer, index, writer))
        self._check(recipient)
        failed = self._failure()
        try:
            if failed is not None:
                await writer.fail(self._shown(failed, scope))
            else:
                usage = as_billed(stream.usage for stream in self._streams)
                await writer.done(answer.usage_event(usage) if self._with_usage else b"")
        finally:
            if recording is not None and not (failed is not None and self._client_gone):
                recording.complete()

    async def _stream_choice(self, answer: Answer, index: int, writer: EventWriter) -> None:
        stream = self._streams[index]
        reading = self._generations[index].reading
        has_calls = False
        try:
            if reading is None or not isinstance(answer, ChatAnswer):
                await pump(answer, index, stream, writer)
            else:
                has_calls = await pump_parts(answer, index, stream, writer, reading)
            if has_ended_well(stream):
                await writer.write(_last_event(answer, index, stream, has_calls=has_calls), stream)
        except EngineFailure as e:
            self._mixed_up = e

    def _check(self, recipient: Recipient) -> None:
        """Check that every stream is the recipient's before usage or whole answers are sent."""
        try:
            for stream in self._streams:
                recipient.check(stream)
        except EngineFailure as e:
            self._mixed_up = self._mixed_up or e

    def _queue_header(self) -> dict[str, str]:
        """The position of the last choice in the queue when the request arrived."""
        return {QUEUE_HEADER: str(max(stream.queue_position for stream in self._streams))}

    def _failure(self) -> TenantdError | None:
        """Why the finished streams are not a complete answer; None if they are."""
        if self._mixed_up is not None:
            return self._mixed_up
        for stream in self._streams:
            if not has_ended_well(stream):
                return stream.error or RequestCancelled(f"the request ended before it was complete: {_reason(stream)}")
        return None


def _choice(answer: Answer, index: int, whole: Whole, stream: LiveStream) -> dict[str, Any]:
    if whole.said is None or not isinstance(answer, ChatAnswer):
        return answer.choice(index, whole.text, whole.logprobs, _reason(stream).value)
    return answer.said_choice(index, whole.said, whole.logprobs, _end(stream, has_calls=bool(whole.said.calls)))


def _last_event(answer: Answer, index: int, stream: LiveStream, *, has_calls: bool) -> bytes:
    if stream.is_out_of_budget:
        return answer.out_of_budget_event(index, as_billed([stream.usage]))
    return answer.finish_event(index, _end(stream, has_calls=has_calls))


def _end(stream: LiveStream, *, has_calls: bool) -> str:
    """The `finish_reason` of a complete choice. An answer that was cut off says so, also in a call."""
    reason = _reason(stream)
    return CALLED if has_calls and reason is FinishReason.STOP else reason.value


def has_ended_well(stream: LiveStream) -> bool:
    """Whether the stream ended well and is in the ledger: `error` is set if its row was not written in time."""
    return stream.finish_reason in GOOD_ENDS and stream.error is None


def _reason(stream: LiveStream) -> FinishReason:
    assert stream.finish_reason is not None, f"{stream.id} returned its last text but is not finished"
    return stream.finish_reason
