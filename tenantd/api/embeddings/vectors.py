"""An exchange whose answer is vectors, or what is made of them: sent once all are there."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from tenantd.api.body import hold_answer
from tenantd.api.openai.exchange import Exchange
from tenantd.api.openai.recipient import Recipient
from tenantd.api.portions import Portions
from tenantd.domain import Tenant
from tenantd.errors import InsufficientQuota, TenantdError
from tenantd.live.generation import Generation
from tenantd.live.streams import LiveStream
from tenantd.serving.attempts import Attempt
from tenantd.serving.service import Service

DECIMALS: Final = 10
"""More than a 32-bit float has in a vector of length 1."""
SENT_BYTES: Final = 4
"""Memory of a number as the engine sent it."""
JSON_BYTES: Final = 16
"""Memory of a number in the answer, at most: 14 characters, and room in which the answer grows."""
BASE64_BYTES: Final = 6
ROW_BYTES: Final = 96
"""What is around a vector in the answer, at most."""
PATIENCE_S: Final = 600.0
"""How long vectors wait for the memory of their answer while others are sent."""
_encode = msgspec.json.Encoder().encode


class Answering(Protocol):
    """How vectors are answered."""

    def answer_bytes(self, texts: int) -> int:
        """The memory that an answer takes while it is made and sent, at most."""

    def encode(self, stream: LiveStream, model: str) -> bytes:
        """The JSON answer. Runs in the text pool."""


class Form(NamedTuple):
    """How vectors are shown: of `whole` numbers the first `dimensions`, as JSON numbers or `as_base64`."""

    whole: int
    dimensions: int
    as_base64: bool

    def answer_bytes(self, texts: int) -> int:
        number_bytes = BASE64_BYTES if self.as_base64 else JSON_BYTES
        return texts * (self.whole * SENT_BYTES + self.dimensions * number_bytes + ROW_BYTES)

    def encode(self, stream: LiveStream, model: str) -> bytes:
        return encode(stream, self, model)


class VectorExchange(Exchange):
    """Runs one request for vectors and sends them."""

    def __init__(
        self,
        service: Service,
        tenant: Tenant,
        generation: Generation,
        form: Answering,
        *,
        timeout_s: float | None,
        headers: dict[str, str],
        attempt: Attempt | None = None,
    ) -> None:
        super().__init__(
            service,
            tenant,
            [generation],
            None,
            timeout_s=timeout_s,
            streamed=False,
            with_usage=False,
            headers=headers,
            attempt=attempt,
        )
        self._form = form
        self._holding: asyncio.Task[None] | None = None

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream, service = self._streams[0], self._service
        self._check(Recipient(scope, service))
        try:
            if failed := self._failure() or _cut_off(stream):
                raise failed
            await self._hold(scope, stream.texts)
            make = functools.partial(self._form.encode, stream, service.config.embeddings_name)
            body = await service.pool.run(self._tenant.name, make)
        except TenantdError as e:
            await self._refuse(scope, e)(scope, receive, send)
            return
        headers = {**self._more_headers, "x-request-id": stream.id, **self._queue_header()}
        answer = Portions(body, service.config.server.write_timeout_s, headers)
        self._record_whole(answer)
        await answer(scope, receive, send)

    async def _hold(self, scope: Scope, texts: int) -> None:
        """Wait for the memory of the answer. Raises ClientDisconnect if the client leaves meanwhile."""
        work = hold_answer(scope, self._form.answer_bytes(texts), PATIENCE_S)
        self._holding = asyncio.create_task(work)
        try:
            await self._holding
        except asyncio.CancelledError:
            if self._client_gone and self._holding.cancelled():
                raise ClientDisconnect from None
            raise

    def _abandon(self) -> None:
        super()._abandon()
        if self._holding is not None:
            self._holding.cancel()


def _cut_off(stream: LiveStream) -> TenantdError | None:
    """Why a request that was ended has not all vectors; None if it has."""
    if not stream.is_out_of_budget:
        return None
    return InsufficientQuota("a budget was used up before all inputs were embedded; what was computed is billed")


def encode(stream: LiveStream, form: Form, model: str) -> bytes:
    """The JSON answer. Vectors are encoded one by one, so that other threads have their turns and nothing is there
    twice."""
    answer = io.BytesIO()  # getvalue() returns the bytes without copying them
    answer.write(b'{"object":"list","data":[')
    rows = (row for sent in stream.vectors for row in np.frombuffer(sent, "<f4").reshape(-1, form.whole))
    for index, row in enumerate(rows):
        answer.write(b"," if index else b"")
        answer.write(b'{"object":"embedding","index":%d,"embedding":%b}' % (index, _encode(shown(row, form))))
    assert index + 1 == stream.texts, "a vector for each text"
    usage = stream.usage.prompt_tokens
    answer.write(b"]," + _encode({"model": model, "usage": {"prompt_tokens": usage, "total_tokens": usage}})[1:])
    return answer.getvalue()


def shown(row: Any, form: Form) -> list[float] | str:
    """A vector of shape (dimensions of the model,) in the form that was asked for. A shorter one has the length 1,
    too."""
    if form.dimensions < len(row):
        row = row[: form.dimensions]
        length = np.sqrt(np.square(row, dtype=np.float64).sum())
        row = (row / length).astype("<f4") if length > 0 else row
    if form.as_base64:
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    numbers: list[float] = np.round(row.astype(np.float64), DECIMALS).tolist()
    return numbers
