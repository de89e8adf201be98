"""What clients ask of the vocabulary and the chat template alone: tokens of a text, text of tokens, messages as a
prompt. llama-server's routes.

They use no engine and are not billed. The work is done in the tenant's turn of the text pool, the answer's memory is
counted like that of a body, each request counts as one of the tenant's requests per minute, and few wait at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.body import give_back_body, hold_answer, read_body
from tenantd.api.identity import actor_of, require_live_key, tenant_of
from tenantd.api.names import Fields, Names, read_request
from tenantd.api.openai.routes import check_model, check_special
from tenantd.api.operations import Access, Operation
from tenantd.api.portions import Portions
from tenantd.api.presence import while_connected
from tenantd.api.text.types import (
    MOST_TEXT_BYTES,
    ApplyTemplateRequest,
    Content,
    DetokenizeRequest,
    Templated,
    TokenizeRequest,
    Tokens,
)
from tenantd.domain import Scope, Tenant
from tenantd.errors import InvalidRequest
from tenantd.serving.service import Service
from tenantd.tenancy.turns import Turns
from tenantd.text.chat_options import ChatOptions
from tenantd.text.excerpt import excerpt
from tenantd.text.tools import MOST_BYTES, read_tools
from tenantd.text.vocabulary import utf8

SLICE_TOKENS: Final = 16_384
"""Encoded at once: other threads wait meanwhile."""
ID_BYTES: Final = 12
PIECE_BYTES: Final = 40
"""At most, of a token in an answer; without its text if that is longer than a byte."""
ESCAPED_BYTES: Final = 6
"""At most, of a byte of text in JSON."""
MESSAGE_BYTES: Final = 512
"""Assumed to be enough for what a template writes around a message."""

F = TypeVar("F", bound=Fields)
_encode = msgspec.json.Encoder().encode


class TextHelpers:
    """The routes and what they share."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turns = Turns("about texts")

    def operations(self) -> list[Operation]:
        mine = functools.partial(Operation, access=Access.TENANT, scopes=(Scope.RUN,))
        return [
            mine("POST", "/tokenize", self.tokenize, Tokens, TokenizeRequest),
            mine("POST", "/detokenize", self.detokenize, Content, DetokenizeRequest),
            mine("POST", "/apply-template", self.apply_template, Templated, ApplyTemplateRequest),
        ]

    async def tokenize(self, request: Request) -> Response:
        """Turn a text into the model's tokens, as in a prompt."""
        return await self._answer(request, TokenizeRequest, self._tokenizing)

    async def detokenize(self, request: Request) -> Response:
        """Turn tokens into text."""
        return await self._answer(request, DetokenizeRequest, self._detokenizing)

    async def apply_template(self, request: Request) -> Response:
        """Show messages as the model's chat template renders them, without the tenant's system prompt."""
        return await self._answer(request, ApplyTemplateRequest, self._templating)

    async def _answer(
        self, request: Request, model: type[F], prepare: Callable[[Tenant, F], tuple[int, Callable[[], bytes]]]
    ) -> Response:
        """`prepare` checks a body, and returns the answer's size at most and what makes it; both run in the pool."""
        service, tenant = self._service, tenant_of(request)
        raw = await read_body(request, service.config.server.max_body_bytes)
        require_live_key(request.scope, service.directory)
        service.text_requests.count(tenant, actor_of(request.scope))
        names = Names(lenient=service.config.server.lenient)

        def read(raw: bytes) -> tuple[int, Callable[[], bytes]]:
            body: Any = read_request(model, raw, names)
            if body.model:
                check_model(body.model, service.config.model_name)
            return prepare(tenant, body)

        async def work() -> bytes:
            nonlocal raw
            async with self._turns.turn(tenant.name):
                reading = service.pool.run(tenant.name, functools.partial(read, raw), len(raw))
                raw = b""
                size_bytes, make = await reading
                del reading
                give_back_body(request.scope)
                await hold_answer(request.scope, size_bytes)
                return await service.pool.run(tenant.name, make, size_bytes)

        with names.as_sent():
            answer = await while_connected(request, work())
        return Portions(answer, service.config.server.write_timeout_s, names.header())

    # -- in a thread

    def _tokenizing(self, tenant: Tenant, body: TokenizeRequest) -> tuple[int, Callable[[], bytes]]:
        if body.parse_special:
            check_special(tenant)
        size_bytes = _checked("content", [body.content])
        chat = self._service.chat
        special, begins, pieces = bool(body.parse_special), bool(body.add_special), bool(body.with_pieces)

        def make() -> bytes:
            ids = chat.prompt(body.content, parse_special=special, add_bos=begins)
            return self._encoded(ids, with_pieces=pieces)

        return (PIECE_BYTES if pieces else ID_BYTES) * (size_bytes + 1), make

    def _encoded(self, ids: list[int], *, with_pieces: bool) -> bytes:
        slices = (ids[start : start + SLICE_TOKENS] for start in range(0, len(ids), SLICE_TOKENS))
        parts = (_encode(self._pieces(some) if with_pieces else some)[1:-1] for some in slices)
        return b'{"tokens":[' + b",".join(parts) + b"]}"

    def _pieces(self, ids: Iterable[int]) -> list[Any]:
        return [{"id": token, "piece": _shown(self._service.vocabulary.piece(token))} for token in ids]

    def _detokenizing(self, _: Tenant, body: DetokenizeRequest) -> tuple[int, Callable[[], bytes]]:
        vocabulary = self._service.vocabulary
        if body.tokens and (most := max(body.tokens)) >= vocabulary.n_tokens:
            raise InvalidRequest(
                f"tokens: {excerpt(most)} is not a token id of this model (0 to {vocabulary.n_tokens - 1})",
                param="tokens",
            )
        pieces = [vocabulary.piece(token) for token in body.tokens]
        if (size_bytes := sum(map(len, pieces))) > MOST_TEXT_BYTES:
            raise InvalidRequest(
                f"tokens: their text has {size_bytes} bytes; at most {MOST_TEXT_BYTES} are allowed: send fewer at a "
                "time",
                param="tokens",
            )
        return ESCAPED_BYTES * size_bytes, lambda: _encode({"content": b"".join(pieces).decode("utf-8", "replace")})

    def _templating(self, _: Tenant, body: ApplyTemplateRequest) -> tuple[int, Callable[[], bytes]]:
        texts = [part for message in body.messages for part in _strings(message)]
        tools = read_tools(body.tools, None, parallel=None)
        size_bytes = _checked("messages", texts) + MESSAGE_BYTES * len(body.messages) + (MOST_BYTES if tools else 0)
        options = ChatOptions(tools, add_generation_prompt=body.add_generation_prompt is not False)
        chat = self._service.chat
        return ESCAPED_BYTES * size_bytes, lambda: _encode({"prompt": chat.text(body.messages, options)})


def _checked(param: str, texts: list[str]) -> int:
    """The size of the texts in bytes. Raises InvalidRequest."""
    size_bytes = sum(map(len, texts))
    if size_bytes <= MOST_TEXT_BYTES:  # otherwise it is not worth encoding
        size_bytes = sum(len(utf8(text, param)) for text in texts)
    if size_bytes > MOST_TEXT_BYTES:
        raise InvalidRequest(
            f"{param}: at most {MOST_TEXT_BYTES} bytes of text are allowed (got {size_bytes}); send it in parts",
            param=param,
        )
    return size_bytes


def _shown(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _strings(value: Any) -> Iterable[str]:
    """All texts in a JSON value of a few levels."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
