"""Makes a response while no client waits for it: it is admitted, shown as in progress, and kept when it is complete."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from tenantd.api.openai.exchange import Exchange
from tenantd.api.openai.recipient import Recipient
from tenantd.api.openai.translated import Parts, TranslatedExchange
from tenantd.api.replies import reply
from tenantd.api.responses.answer import ResponseAnswer
from tenantd.api.responses.response_input import encode
from tenantd.domain import as_billed
from tenantd.errors import TenantdError
from tenantd.live.streams import LiveStream
from tenantd.serving.kept_responses import number_of
from tenantd.text.reading import Reading

log = logging.getLogger(__name__)


class BackgroundExchange(TranslatedExchange):
    """Answers as soon as the request is admitted. What makes the response goes on, whatever the client does."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._is_handed_over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await Exchange.__call__(self, scope, receive, send)
        finally:
            if not self._is_handed_over:
                self._translation.close()

    async def _start(self, scope: Scope) -> None:
        with self._service.background.place(number_of(self._tenant)):
            await self._submit(scope)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        [stream] = self._streams
        written = self._translation.answer(
            stream.id, self._service.config.model_name, stream.created_micros // 1_000_000, as_billed([stream.usage])
        )
        assert isinstance(written, ResponseAnswer), "only responses have a background"
        body = written.begun()
        self._is_handed_over = True
        work = self._make(written, stream, Recipient(scope, self._service), lambda error: self._shown(error, scope))
        self._service.background.begin(number_of(self._tenant), body["id"], encode(body), stream, work)
        response = reply(body, request_id=stream.id, headers=self._more_headers | self._queue_header())
        self._record_whole(response)
        await response(scope, receive, send)

    def _abandon(self) -> None:
        if not self._is_handed_over:
            super()._abandon()

    async def _make(
        self,
        written: ResponseAnswer,
        stream: LiveStream,
        recipient: Recipient,
        shown: Callable[[TenantdError], TenantdError],
    ) -> None:
        """Keep the response when it has ended, however it did."""
        parts = Parts(self._generations[0].reading or Reading())
        try:
            try:
                await stream.started()
                while deltas := await stream.take():
                    written.take(parts.take(deltas))
                written.take(parts.finish())
                self._check(recipient)
                failed = self._failure()
            except TenantdError as e:
                failed = e
            if failed is None:
                written.whole(parts.ending(stream))
            else:
                written.keep_failed(shown(failed))
        except Exception:
            log.exception("%s: a response in the background could not be kept", stream.id)
            raise
        finally:
            stream.abandon()
            self._translation.close()
