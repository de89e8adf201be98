"""OpenAI's routes (completions, chat completions and models), and a tenant's view of its queue.

A request is read, validated and turned into one `Generation` per choice (each prompt times `n`). The exchange does the
rest.
"""

from __future__ import annotations

import functools
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.body import give_back_body, read_body
from tenantd.api.identity import actor_of, asking, require_live_key, tenant_of
from tenantd.api.names import Names
from tenantd.api.openai.answers import Answer, ChatAnswer, CompletionAnswer
from tenantd.api.openai.exchange import Exchange
from tenantd.api.openai.prompts import PromptReader
from tenantd.api.openai.replays import KEY_PARAMETER, Replay, begin_attempt, idempotency_key
from tenantd.api.openai.shapes import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    Model,
    ModelLimits,
    ModelList,
    Queue,
)
from tenantd.api.openai.translated import Translation, closing
from tenantd.api.openai.types import ChatRequest, CompletionRequest, GenerationRequest
from tenantd.api.operations import Access, Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.domain import Scope, Tenant
from tenantd.errors import Forbidden, ModelNotLoaded, NotFound
from tenantd.live.generation import Generation
from tenantd.printable import one_line
from tenantd.serving.attempts import Attempt, letting_go
from tenantd.serving.kept_answers import KeptAnswer
from tenantd.serving.service import Service
from tenantd.text.grammar import GrammarSource
from tenantd.text.prompt import Prompt
from tenantd.text.stops import StopStrings, check_stops

Kind = Literal["completion", "chat"]
CLIENT_ID_HEADER: Final = "x-client-request-id"
"""The client's own id for a request, by which it can find it in /v1/queue."""
MOST_CLIENT_ID_CHARACTERS: Final = 128
WARNING_HEADER: Final = "x-tenantd-warning"


class ModelNotFound(NotFound):
    """The request names a model other than the one that is served."""

    code = "model_not_found"


def check_model(name: str, served: str) -> None:
    """Raises ModelNotFound unless `name` is that of the model that is served."""
    if name != served:
        raise unknown_model(name, served)


def unknown_model(name: str, served: str) -> ModelNotFound:
    """The error for the name of another model."""
    return ModelNotFound(f"model {name[:200]!r} is not available; this server has {served!r}", param="model")


def check_special(tenant: Tenant) -> None:
    """Raises Forbidden unless texts of this tenant may contain special tokens."""
    if not tenant.allow_special:
        raise Forbidden(
            f"parse_special: tenant {tenant.name} may not send special tokens; an administrator can allow it: "
            f"tenantctl tenant set {tenant.name} --allow-special",
            param="parse_special",
        )


class OpenAI:
    """The routes and what they share."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._prompts = PromptReader(
            service.vocabulary,
            service.chat,
            service.pool,
            service.images,
            lambda: None if service.supervisor.info is None else service.supervisor.info.images,
            service.check_early,
        )

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
        """Continue one or more prompts."""
        tenant, raw, attempt = await self._begun(request)
        if isinstance(attempt, KeptAnswer):
            return Replay(self._service, attempt)
        names = Names(lenient=self._service.config.server.lenient)
        with letting_go(attempt), names.as_sent():
            check = functools.partial(self._check_completion, tenant)
            body, prompts = await while_connected(request, self._prompts.completion(tenant, raw, names, check))
            del raw
            give_back_body(request.scope)  # compiling a grammar may have to wait
            grammar = await while_connected(request, self._grammar(tenant, body.grammar_source()))
            own, ignored = client_id(request), names.header()
            return self._exchange(tenant, body, "completion", CompletionAnswer, prompts, grammar, own, ignored, attempt)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        tenant, raw, attempt = await self._begun(request)
        if isinstance(attempt, KeptAnswer):
            return Replay(self._service, attempt)
        names = Names(lenient=self._service.config.server.lenient)
        with letting_go(attempt), names.as_sent():
            reading = self._prompts.chat(tenant, raw, names, self._check)
            body, prompt = await while_connected(request, reading)
            del raw
            give_back_body(request.scope)
            grammar = await while_connected(request, self._grammar(tenant, prompt.grammar or body.grammar_source()))
            own, ignored = client_id(request), names.header() | _warning(prompt)
            return self._exchange(tenant, body, "chat", ChatAnswer, [prompt], grammar, own, ignored, attempt)

    async def converse(self, request: Request, translation: Translation) -> Response:
        """Answer a conversation in the form of another API."""
        tenant, raw, attempt = await self._begun(request)
        if isinstance(attempt, KeptAnswer):
            return Replay(self._service, attempt)
        names = Names(lenient=self._service.config.server.lenient)
        with letting_go(attempt), closing(translation), names.as_sent():
            translate = functools.partial(translation.read, tenant, raw, names)
            reading = self._prompts.translated(tenant, translate, self._check, len(raw))
            body, prompt = await while_connected(request, reading)
            del raw, translate
            translation.begin(body.tier(tenant.priority))
            give_back_body(request.scope)
            grammar = await while_connected(request, self._grammar(tenant, prompt.grammar or body.grammar_source()))
            own, headers = client_id(request), names.header() | _warning(prompt)
            generations = self._generations(tenant, body, "chat", [prompt], grammar, own)
            return translation.exchange(
                self._service,
                tenant,
                generations,
                None,
                timeout_s=body.timeout_s,
                streamed=bool(body.stream),
                with_usage=True,
                headers=headers,
                attempt=attempt,
            )

    async def count_tokens(self, request: Request, translation: Translation) -> int:
        """How many tokens the prompt of a conversation has."""
        tenant = tenant_of(request)
        raw = await self._body(request)
        tenant = self._by_now(tenant)
        self._service.text_requests.count(tenant, actor_of(request.scope))
        names = Names(lenient=self._service.config.server.lenient)
        with closing(translation), names.as_sent():
            translate = functools.partial(translation.read, tenant, raw, names)
            reading = self._prompts.translated(tenant, translate, self._check, len(raw), is_counted=True)
            _, prompt = await while_connected(request, reading)
        return len(prompt.tokens)

    async def models(self, request: Request) -> Response:
        """List the served model, and the one that embeds texts if it is a different one."""
        return reply(ModelList(object="list", data=self._models(request)))

    async def model(self, request: Request, name: str) -> Response:
        """Show a model."""
        for each in self._models(request):
            if each["id"] == name:
                return reply(each)
        raise unknown_model(name, self._service.config.model_name)

    async def queue(self, request: Request) -> Response:
        """Show the queue positions of the tenant's own requests. Not part of OpenAI's API."""
        tenant = tenant_of(request)
        return reply({"waiting": self._service.queue(tenant.name)})

    # -- before the engine

    async def _begun(self, request: Request) -> tuple[Tenant, bytes, Attempt | KeptAnswer | None]:
        """Read a request. Its tenant as it is now, its body, and what its idempotency key stands for."""
        tenant, key = tenant_of(request), idempotency_key(request)
        raw = await self._body(request)
        tenant = self._by_now(tenant)
        return tenant, raw, await begin_attempt(self._service, request, tenant, key, raw)

    async def _body(self, request: Request) -> bytes:
        body = await read_body(request, self._service.config.server.max_body_bytes)
        require_live_key(request.scope, self._service.directory)
        return body

    def _by_now(self, tenant: Tenant) -> Tenant:
        """A tenant after the body has arrived, which may take minutes: its system prompt may have changed meanwhile."""
        found = self._service.directory.tenants.get(tenant.name)
        return found if found is not None and found.id == tenant.id else tenant

    def _check(self, body: GenerationRequest) -> int:
        """Validate everything but the prompt. Returns how many tokens a slot holds."""
        body.check()
        check_stops(body.stop or ())
        if body.model:
            check_model(body.model, self._service.config.model_name)
        return self._context_tokens()

    def _check_completion(self, tenant: Tenant, body: CompletionRequest) -> int:
        if body.parse_special:
            check_special(tenant)
        return self._check(body)

    def _context_tokens(self) -> int:
        """How many tokens a slot holds. Raises ModelNotLoaded until it is known."""
        info = self._service.supervisor.info
        if info is None:
            raise ModelNotLoaded(
                f"the model is not loaded ({self._service.supervisor.state}); GET /readyz shows its progress",
                retry_after_s=2,
            )
        return info.context_tokens

    def _models(self, request: Request) -> list[Model]:
        info, config = self._service.supervisor.info, self._service.config
        sees = bool(info and info.images)
        models = [self._model_json(request, config.model_name, info.context_tokens if info else None, sees=sees)]
        if config.embeddings.is_on and config.embeddings_name != config.model_name:
            most_tokens = info.embeddings.input_tokens if info and info.embeddings else None
            models.append(self._model_json(request, config.embeddings_name, most_tokens))
        return models

    def _model_json(self, request: Request, name: str, context_tokens: int | None, *, sees: bool = False) -> Model:
        info, tenant = self._service.supervisor.info, asking(request.scope)
        model: Model = {
            "id": name,
            "object": "model",
            "created": self._service.started_micros // 1_000_000,
            "owned_by": "tenantd",
            "max_model_len": context_tokens,
            "context_length": context_tokens,
            "system_fingerprint": info.fingerprint if info else None,
            "chat_template": self._service.chat.warning is None,
            "input_modalities": ["text", "image"] if sees else ["text"],
        }
        if tenant is not None:
            limits = tenant.limits
            model["limits"] = {name: getattr(limits, name) for name in ModelLimits.__annotations__}  # type: ignore[typeddict-item]
            known = [each for each in (context_tokens, limits.max_context_tokens) if each is not None]
            model["context_length"] = min(known, default=None)
        return model

    async def _grammar(self, tenant: Tenant, source: GrammarSource | None) -> str:
        """The compiled grammar for the answer; "" if there is none. Raises InvalidRequest, QueueFull."""
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
        generations = self._generations(tenant, body, kind, prompts, grammar, client_id)
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
            service_tier=body.tier(tenant.priority),
        )

    def _generations(
        self,
        tenant: Tenant,
        body: GenerationRequest,
        kind: Kind,
        prompts: list[Prompt],
        grammar: str,
        client_id: str,
    ) -> list[Generation]:
        """One for each choice of each prompt. Raises InvalidRequest."""
        sampling = body.sampling(self._service.vocabulary.n_tokens, self._service.config.sampling, grammar)
        has_system_prompt = kind == "chat" or tenant.system_in_completions
        hashed = self._service.directory.system_prompt_hmac(tenant) if has_system_prompt else None
        stops = StopStrings(tuple(body.stop or ()) + (self._service.chat.stops if kind == "chat" else ()))
        return [
            Generation(
                kind=kind,
                prompt=prompt.tokens,
                images=prompt.images,
                hidden_tokens=prompt.hidden_tokens,
                marks=prompt.marks,
                max_tokens=body.output_limit_tokens(),
                sampling=sampling,
                stops=stops,
                choice=choice,
                choices=body.choices,
                is_flex=body.is_flex,
                client_id=client_id,
                system_prompt_hmac=hashed,
                reading=prompt.reading,
            )
            for prompt in prompts
            for choice in range(body.choices)
        ]


def client_id(request: Request) -> str:
    """The client's own id for its request, safe to show."""
    return one_line(request.headers.get(CLIENT_ID_HEADER, ""), MOST_CLIENT_ID_CHARACTERS)


def _warning(prompt: Prompt) -> dict[str, str]:
    return {WARNING_HEADER: prompt.warning} if prompt.warning else {}
