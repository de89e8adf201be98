"""Anthropic's messages: a chat in another form."""

from __future__ import annotations

import functools

from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.anthropic.message_answer import MessageAnswer
from tenantd.api.anthropic.message_input import read_messages_request
from tenantd.api.anthropic.message_shapes import MessageBody, MessageEvent, TokenCount
from tenantd.api.anthropic.types import MessagesRequest
from tenantd.api.dialect import MESSAGES, AnthropicError
from tenantd.api.names import Names, read_request
from tenantd.api.openai.replays import KEY_PARAMETER
from tenantd.api.openai.routes import OpenAI
from tenantd.api.openai.translated import Translation
from tenantd.api.openai.types import ChatRequest
from tenantd.api.operations import Access, Operation
from tenantd.api.replies import reply
from tenantd.domain import Scope, Tenant
from tenantd.errors import TokenUsage
from tenantd.request_ids import MESSAGE_PREFIX, answer_id
from tenantd.serving.service import Service
from tenantd.text.chat import ChatFormatter


class Anthropic:
    """The routes."""

    def __init__(self, service: Service, openai: OpenAI) -> None:
        self._service = service
        self._openai = openai

    def operations(self) -> list[Operation]:
        mine = functools.partial(Operation, access=Access.TENANT, scopes=(Scope.RUN,), error=AnthropicError)
        create = functools.partial(mine, headers=(KEY_PARAMETER,), stream=MessageEvent)
        return [
            create("POST", MESSAGES, self.create_message, MessageBody, MessagesRequest),
            mine("POST", f"{MESSAGES}/count_tokens", self.count_message_tokens, TokenCount, MessagesRequest),
        ]

    async def create_message(self, request: Request) -> Response:
        """Answer a conversation, in the format of Anthropic's API."""
        return await self._openai.converse(request, _Translated(self._service.chat))

    async def count_message_tokens(self, request: Request) -> Response:
        """Count the tokens that the prompt of a message would have. It costs nothing, but counts as a request."""
        count = await self._openai.count_tokens(request, _Translated(self._service.chat))
        return reply(TokenCount(input_tokens=count))


class _Translated(Translation):
    """One request for a message."""

    def __init__(self, chat: ChatFormatter) -> None:
        self._chat = chat
        self._stops: tuple[str, ...] = ()

    def read(self, tenant: Tenant, raw: bytes, names: Names) -> ChatRequest:
        request = read_request(MessagesRequest, raw, names)
        self._stops = tuple(request.stop_sequences or ())
        return read_messages_request(request, names, self._chat)

    def answer(self, request_id: str, model: str, created_s: int, usage: TokenUsage) -> MessageAnswer:
        return MessageAnswer(answer_id(request_id, MESSAGE_PREFIX), model, usage, self._stops, self.tier)
