"""`Idempotency-Key`: what a client sends so that a request that is sent twice runs once."""

from __future__ import annotations

import re
from functools import partial
from hashlib import sha256
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tenantd.api.connection import connection_of
from tenantd.api.identity import actor_of, asking
from tenantd.api.openai.prompts import INLINE_BYTES
from tenantd.api.operations import Header
from tenantd.api.portions import send_portions
from tenantd.domain import Tenant
from tenantd.errors import EngineFailure, InvalidRequest
from tenantd.live.streams import MIXED_UP
from tenantd.serving.attempts import Attempt
from tenantd.serving.kept_answers import Headers, KeptAnswer
from tenantd.serving.service import Service

HEADER: Final = "Idempotency-Key"
KEY_PARAMETER: Final = Header(
    HEADER,
    "The same key with the same body gives the first answer again, for a day, and is billed once.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
)
REPLAYED_HEADER: Final = b"idempotent-replayed"
MOST_CHARACTERS: Final = 255
_FORM: Final = re.compile(rf"[ -~]{{1,{MOST_CHARACTERS}}}")
_ABOUT_RETRIES: Final = (b"retry-after", b"retry-after-ms", b"x-should-retry")


def idempotency_key(request: Request) -> str | None:
    """The key of a request, if it has one. Raises InvalidRequest."""
    sent = request.headers.getlist(HEADER)
    if not sent:
        return None
    if len(sent) > 1 or _FORM.fullmatch(sent[0]) is None:
        raise InvalidRequest(
            f"{HEADER} must be one header of 1 to {MOST_CHARACTERS} printable ASCII characters", param=HEADER.lower()
        )
    return sent[0]


async def begin_attempt(
    service: Service, request: Request, tenant: Tenant, key: str | None, raw: bytes
) -> Attempt | KeptAnswer | None:
    """What a request's idempotency key stands for; None without one. Raises what `Attempts.begin` raises."""
    if key is None:
        return None
    hashed = await body_hash(service, tenant, request.scope["path"], raw)
    return await service.attempts.begin(tenant, key, hashed)


async def body_hash(service: Service, tenant: Tenant, path: str, raw: bytes) -> bytes:
    """Tells bodies apart, and the routes they are sent to. Large ones are hashed in their tenant's turn, like parsing.

    Raises QueueFull, Draining.
    """
    work = partial(_hash, path.encode(), raw)
    return work() if len(raw) <= INLINE_BYTES else await service.pool.run(tenant.name, work, len(raw))


def _hash(path: bytes, raw: bytes) -> bytes:
    hashed = sha256(path + b"\0")
    hashed.update(raw)
    return hashed.digest()


class Replay(Response):
    """Gives a kept answer again, a stream as a stream, with the header `idempotent-replayed: true`."""

    def __init__(self, service: Service, answer: KeptAnswer) -> None:
        super().__init__()
        self._service = service
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, tenant = self._answer, asking(scope)
        if tenant is None or (tenant.id or 0) != answer.keyed.tenant_id:
            raise EngineFailure(MIXED_UP)
        with self._service.repeats.giving(answer, tenant, actor_of(scope)):
            try:
                await self._send(answer, send)
            except TimeoutError:  # it reads nothing
                connection_of(scope).abort()

    async def _send(self, answer: KeptAnswer, send: Send) -> None:
        headers = [*_headers(answer), (REPLAYED_HEADER, b"true")]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send_portions(answer.body, send, self._service.config.server.write_timeout_s)


def _headers(answer: KeptAnswer) -> Headers:
    """As they were; but an error stays what it is, however often the request is sent."""
    if answer.status < 400:
        return answer.headers
    kept = [(name, value) for name, value in answer.headers if name not in _ABOUT_RETRIES]
    return [*kept, (b"x-should-retry", b"false")]
