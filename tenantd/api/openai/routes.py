"""OpenAI's routes (completions, chat completions and models), and a tenant's view of its queue.

A request is read, validated and turned into one `Generation` per choice (each prompt times `n`). The exchange does the
rest.
"""

from __future__ import annotations

import functools
from typing import Final, Literal

from fastapi import Request
from starlette.responses import Response

from tenantd.api.body import give_back_body, read_body
from tenantd.api.identity import require_live_key, tenant_of
from tenantd.api.names import Names
from tenantd.api.openai.answers import Answer, ChatAnswer, CompletionAnswer
from tenantd.api.openai.exchange import Exchange
from tenantd.api.openai.prompts import PromptReader
from tenantd.api.openai.replays import KEY_PARAMETER, Replay, body_hash, idempotency_key
from tenantd.api.openai.shapes import ChatCompletion, ChatCompletionChunk, Completion, Model, ModelList, Queue
from tenantd.api.openai.types import ChatRequest, CompletionRequest, GenerationRequest
from tenantd.api.operations import Access, Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.domain import Scope, Tenant
from tenantd.errors import EngineUnavailable, Forbidden, NotFound
from tenantd.live.generation import Generation
from tenantd.printable import one_line
from tenantd.serving.attempts import Attempt, letting_go
from tenantd.serving.kept_answers import KeptAnswer
from tenantd.serving.service import Service
from tenantd.text.stops import StopStrings, check_stops
from tenantd.text.system_prompt import Prompt

Kind = Literal["completion", "chat"]
CLIENT_ID_HEADER: Final = "x-client-request-id"
"""The client's own id for a request, by which it can find it in /v1/queue."""
MOST_CLIENT_ID_CHARACTERS: Final = 128


class ModelNotFound(NotFound):
    """The request names a model other than the one that is served."""

    code = "model_not_found"


class OpenAI:
    """The routes and what they share."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._prompts = PromptReader(service.vocabulary, service.chat, service.pool)

    def operations(self) -> list[Operation]:
        run, either = (Scope.RUN,), (Scope.RUN, Scope.READ)
        mine = functools.partial(Operation, access=Access.TENANT)
        once = functools.partial(mine, scopes=run, headers=(KEY_PARAMETER,))
        ours = functools.partial(Operation, access=Access.KNOWN, scopes=either)
        text, chat, events = "/v1/completions", "/v1/chat/completions", ChatCompletionChunk
        return [
            once("POST", text, self.completions, Completion, CompletionRequest, stream=Completion),
            once("POST", chat, self.chat, ChatCompletion, ChatRequest, stream=events),
            ours("GET", "/v1/models", self.models, ModelList),
            ours("GET", "/v1/models/{name:path}", self.model, Model),
            mine("GET", "/v1/queue", self.queue, Queue, scopes=either),
        ]

    # -- routes

    async def completions(self, request: Request) -> Response:
        """Continue one prompt or several."""
        tenant, key = tenant_of(request), idempotency_key(request)
        raw = await self._body(request)
        tenant = self._by_now(tenant)
        if isinstance(attempt := await self._begin(request, tenant, key, raw), KeptAnswer):
            return Replay(self._service, attempt)
        names = Names(lenient=self._service.config.server.lenient)
        with letting_go(attempt), names.as_sent():
            check = functools.partial(self._check_completion, tenant)
            body, prompts = await while_connected(request, self._prompts.completion(tenant, raw, names, check))
            del raw
            give_back_body(request.scope)  # compiling a grammar may have to wait
            grammar = await while_connected(request, self._grammar(tenant, body))
            own, ignored = _client_id(request), names.header()
            return self._exchange(tenant, body, "completion", CompletionAnswer, prompts, grammar, own, ignored, attempt)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        tenant, key = tenant_of(request), idempotency_key(request)
        raw = await self._body(request)
        tenant = self._by_now(tenant)
        if isinstance(attempt := await self._begin(request, tenant, key, raw), KeptAnswer):
            return Replay(self._service, attempt)
        names = Names(lenient=self._service.config.server.lenient)
        with letting_go(attempt), names.as_sent():
            reading = self._prompts.chat(tenant, raw, names, self._check)
            body, prompt = await while_connected(request, reading)
            del raw
            give_back_body(request.scope)
            grammar = await while_connected(request, self._grammar(tenant, body))
            own, ignored = _client_id(request), names.header()
            return self._exchange(tenant, body, "chat", ChatAnswer, [prompt], grammar, own, ignored, attempt)

    async def models(self) -> Response:
        """List the model that is served."""
        return reply(ModelList(object="list", data=[self._model_json()]))

    async def model(self, name: str) -> Response:
        """Show the model that is served."""
        self._check_model(name)
        return reply(self._model_json())

    async def queue(self, request: Request) -> Response:
        """Show the queue positions of the tenant's own requests. Not part of OpenAI's API."""
        tenant = tenant_of(request)
        return reply({"waiting": self._service.queue(tenant.name)})

    # -- before the engine

    async def _body(self, request: Request) -> bytes:
        body = await read_body(request, self._service.config.server.max_body_bytes)
        require_live_key(request.scope, self._service.directory)
        return body

    async def _begin(
        self, request: Request, tenant: Tenant, key: str | None, raw: bytes
    ) -> Attempt | KeptAnswer | None:
        """What the request's idempotency key stands for; None without one. Raises what `Attempts.begin` raises."""
        if key is None:
            return None
        hashed = await body_hash(self._service, tenant, request.scope["path"], raw)
        return await self._service.attempts.begin(tenant, key, hashed)

    def _by_now(self, tenant: Tenant) -> Tenant:
        """A tenant after the body has arrived, which may take minutes: its system prompt may have changed meanwhile."""
        found = self._service.directory.tenants.get(tenant.name)
        return found if found is not None and found.id == tenant.id else tenant

    def _check(self, body: GenerationRequest) -> int:
        """Validate everything but the prompt. Returns how many tokens a slot holds."""
        body.check()
        check_stops(body.stop or ())
        if body.model:
            self._check_model(body.model)
        return self._context_tokens()

    def _check_completion(self, tenant: Tenant, body: CompletionRequest) -> int:
        if body.parse_special and not tenant.allow_special:
            raise Forbidden(
                f"parse_special: tenant {tenant.name} may not send special tokens; an administrator can allow it: "
                f"tenantctl tenant set {tenant.name} --allow-special",
                param="parse_special",
            )
        return self._check(body)

    def _check_model(self, name: str) -> None:
        served = self._service.config.model_name
        if name != served:
            raise ModelNotFound(f"model {name[:200]!r} is not available; this server has {served!r}", param="model")

    def _context_tokens(self) -> int:
        """How many tokens a slot holds. Raises EngineUnavailable until the model is loaded."""
        info = self._service.supervisor.info
        if info is None:
            raise EngineUnavailable(
                f"the model is not loaded ({self._service.supervisor.state}); GET /readyz shows its progress",
                retry_after_s=2,
            )
        return info.context_tokens

    def _model_json(self) -> Model:
        info = self._service.supervisor.info
        return {
            "id": self._service.config.model_name,
            "object": "model",
            "created": self._service.started_micros // 1_000_000,
            "owned_by": "tenantd",
            "max_model_len": info.context_tokens if info else None,
        }

    async def _grammar(self, tenant: Tenant, body: GenerationRequest) -> str:
        """The compiled grammar for the answer; "" if there is none. Raises InvalidRequest, QueueFull."""
        source = body.grammar_source()
        return "" if source is None else await self._service.grammars.compile(source, tenant.name)

    def _exchange(
        self,
        tenant: Tenant,
        body: GenerationRequest,
        kind: Kind,
        answer: type[Answer],
        prompts: list[Prompt],
        grammar: str,
        client_id: str,
        headers: dict[str, str],
        attempt: Attempt | None,
    ) -> Response:
        sampling = body.sampling(self._service.vocabulary.n_tokens, grammar)
        has_system_prompt = kind == "chat" or tenant.system_in_completions
        hashed = self._service.directory.system_prompt_hmac(tenant) if has_system_prompt else None
        stops = StopStrings(tuple(body.stop or ()) + (self._service.chat.stops if kind == "chat" else ()))
        generations = [
            Generation(
                kind=kind,
                prompt=prompt.tokens,
                hidden_tokens=prompt.hidden_tokens,
                marks=prompt.marks,
                max_tokens=body.output_limit_tokens(),
                sampling=sampling,
                stops=stops,
                choice=choice,
                choices=body.choices,
                client_id=client_id,
                system_prompt_hmac=hashed,
            )
            for prompt in prompts
            for choice in range(body.choices)
        ]
        return Exchange(
            self._service,
            tenant,
            generations,
            answer,
            timeout_s=body.timeout_s,
            streamed=bool(body.stream),
            with_usage=body.include_usage,
            headers=headers,
            attempt=attempt,
        )


def _client_id(request: Request) -> str:
    return one_line(request.headers.get(CLIENT_ID_HEADER, ""), MOST_CLIENT_ID_CHARACTERS)
