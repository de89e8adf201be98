"""OpenAI's responses: a chat in another form, kept for a while so that a client can continue it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.identity import tenant_of
from tenantd.api.names import Names
from tenantd.api.openai.replays import KEY_PARAMETER
from tenantd.api.openai.routes import OpenAI
from tenantd.api.openai.translated import TranslatedExchange, Translation
from tenantd.api.openai.types import ChatRequest
from tenantd.api.operations import Access, Operation
from tenantd.api.portions import Portions
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.api.responses.answer import ResponseAnswer
from tenantd.api.responses.background_exchange import BackgroundExchange
from tenantd.api.responses.response_input import Read, decode_messages, encode, read_response, request_of
from tenantd.api.responses.response_shapes import Deleted, InputItems, ResponseBody, ResponseEvent
from tenantd.api.responses.types import ResponseRequest
from tenantd.domain import Scope, Tenant, Tier
from tenantd.errors import InvalidRequest, NotFound, TokenUsage
from tenantd.request_ids import RESPONSE_PREFIX, answer_id
from tenantd.serving.kept_responses import KeptResponse, KeptResponses, Room, number_of, size_of
from tenantd.serving.service import Service
from tenantd.text.excerpt import excerpt

PATH: Final = "/v1/responses"


class PreviousResponseNotFound(InvalidRequest):
    """`previous_response_id` is not the id of a response of this tenant that is kept."""

    code = "previous_response_not_found"


class Responses:
    """The routes."""

    def __init__(self, service: Service, openai: OpenAI) -> None:
        self._service = service
        self._openai = openai

    def operations(self) -> list[Operation]:
        mine = functools.partial(Operation, access=Access.TENANT, scopes=(Scope.RUN,))
        create = functools.partial(mine, headers=(KEY_PARAMETER,), stream=ResponseEvent)
        return [
            create("POST", PATH, self.create_response, ResponseBody, ResponseRequest),
            mine("GET", f"{PATH}/{{response_id}}", self.response, ResponseBody),
            mine("DELETE", f"{PATH}/{{response_id}}", self.delete_response, Deleted),
            mine("POST", f"{PATH}/{{response_id}}/cancel", self.cancel_response, ResponseBody),
            mine("GET", f"{PATH}/{{response_id}}/input_items", self.response_input, InputItems),
        ]

    async def create_response(self, request: Request) -> Response:
        """Answer an input and, unless `store` is false, keep the response so that it can be continued."""
        return await self._openai.converse(request, _Translated(self._service.responses))

    async def response(self, request: Request, response_id: str) -> Response:
        """Show a response that is kept or is being made in the background."""
        made = self._service.background.find(number_of(tenant_of(request)), response_id)
        return self._sent(self._found(request, response_id).body if made is None else made.body)

    async def cancel_response(self, request: Request, response_id: str) -> Response:
        """End a response that is being made in the background, and show it. What was generated is billed."""
        tenant = tenant_of(request)
        if (made := self._service.background.find(number_of(tenant), response_id)) is not None:
            with contextlib.suppress(NotFound):  # it has just ended
                self._service.own.cancel(tenant.id, made.stream.id)
            await while_connected(request, asyncio.wait({made.work}))
        found = self._found(request, response_id)
        if made is None and msgspec.json.decode(found.body)["status"] != "cancelled":
            raise InvalidRequest("only a response that is being made in the background can be cancelled")
        return self._sent(found.body)

    async def delete_response(self, request: Request, response_id: str) -> Response:
        """Forget a response. Those that continue it stay."""
        if self._service.background.find(number_of(tenant_of(request)), response_id) is not None:
            raise InvalidRequest("this response is still being made; cancel it first")
        self._found(request, response_id)
        self._service.responses.forget(number_of(tenant_of(request)), response_id)
        return reply(Deleted(id=response_id, object="response", deleted=True))

    async def response_input(self, request: Request, response_id: str) -> Response:
        """Show the input items of a kept response, in order, without those of the responses before it."""
        return self._sent(self._found(request, response_id).input_items)

    def _sent(self, body: bytes) -> Response:
        return Portions(body, self._service.config.server.write_timeout_s)

    def _found(self, request: Request, response_id: str) -> KeptResponse:
        found = self._service.responses.find(number_of(tenant_of(request)), response_id)
        if found is None:
            raise NotFound(f"no response {excerpt(response_id, 80)} is kept; it may have been deleted or have expired")
        return found


class _Translated(Translation):
    """One request for a response."""

    def __init__(self, responses: KeptResponses) -> None:
        self._responses = responses
        self._tenant_id = 0
        self._before = b"[]"  # messages as JSON: those of the response that it continues, not a copy
        self._read: Read | None = None
        self._room: Room | None = None
        self._answer: ResponseAnswer | None = None

    def read(self, tenant: Tenant, raw: bytes, names: Names) -> ChatRequest:
        self._tenant_id = number_of(tenant)
        request = request_of(raw, names)
        before = self._conversation(request.previous_response_id)
        chat, self._read = read_response(request, names, before)
        return chat

    def _conversation(self, previous_id: str | None) -> list[dict[str, Any]]:
        if previous_id is None:
            return []
        found = self._responses.find(self._tenant_id, previous_id)
        if found is None:
            raise PreviousResponseNotFound(
                f"previous_response_id: no response {excerpt(previous_id, 80)} is kept; send the whole conversation as "
                "input",
                param="previous_response_id",
            )
        self._before = found.conversation
        return decode_messages(found.conversation)

    def begin(self, tier: Tier | None) -> None:
        super().begin(tier)
        read = self._read
        assert read is not None, "it was read"
        if read.wants_kept:
            more_bytes = size_of(read.input_items, self._before, read.messages)
            self._room = self._responses.reserve(self._tenant_id, more_bytes)
            if self._room is None and read.is_background:
                raise InvalidRequest(
                    "background: there is no room to keep the response (responses.bytes_per_tenant); send a shorter "
                    "input, or wait for the answer",
                    param="background",
                )
        if self._room is None:
            self._read, self._before = read._replace(input_items=b"", messages=b""), b""

    def answer(self, request_id: str, model: str, created_s: int, usage: TokenUsage) -> ResponseAnswer:
        assert self._read is not None
        is_kept, repeated = self._room is not None, self._read.repeated
        if self.tier is not None:
            repeated = {**repeated, "service_tier": self.tier}
        response_id = answer_id(request_id, RESPONSE_PREFIX)
        self._answer = ResponseAnswer(response_id, model, created_s, repeated, self._keep, is_kept=is_kept)
        return self._answer

    def _keep(self, body: dict[str, Any]) -> bool:
        room, read, answer = self._room, self._read, self._answer
        if room is None or read is None or answer is None:
            return False
        self._room = None
        lists = [each[1:-1] for each in (self._before, read.messages) if each != b"[]"]
        conversation = b"[%s]" % b",".join([*lists, encode(answer.message())])
        return room.keep(body["id"], encode(body), read.input_items, conversation)

    def exchange(self, *args: Any, **more: Any) -> TranslatedExchange:
        assert self._read is not None, "it was read"
        return (BackgroundExchange if self._read.is_background else TranslatedExchange)(self, *args, **more)

    def close(self) -> None:
        if self._room is not None:
            self._room.give_back()
            self._room = None
        self._read, self._before = None, b""
