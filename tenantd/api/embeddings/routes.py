"""Vectors of texts (OpenAI's embeddings route), and documents ranked by how well they match a query (Jina's and
Cohere's), from the model that is configured for either."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.body import check_answer, give_back_body, read_body
from tenantd.api.embeddings.inputs import read_inputs, read_pairs
from tenantd.api.embeddings.ranking import Ranking
from tenantd.api.embeddings.types import EmbeddingList, EmbeddingsRequest, RankedList, RerankRequest
from tenantd.api.embeddings.vectors import Answering, Form, VectorExchange
from tenantd.api.identity import require_live_key, tenant_of
from tenantd.api.names import Names, read_request
from tenantd.api.openai.replays import KEY_PARAMETER, Replay, begin_attempt, idempotency_key
from tenantd.api.openai.routes import check_model, client_id
from tenantd.api.operations import Access, Operation
from tenantd.api.presence import while_connected
from tenantd.domain import Sampling, Scope
from tenantd.errors import InvalidRequest, ModelNotLoaded
from tenantd.live.generation import Generation
from tenantd.serving.attempts import letting_go
from tenantd.serving.kept_answers import KeptAnswer
from tenantd.serving.service import Service
from tenantd.wire.messages import EmbeddingInfo


class EmbeddingsOff(InvalidRequest):
    """No model is configured for it."""

    code = "unsupported"


class Wanted(NamedTuple):
    """What one request asks for. `advice` says what to send if so many bytes can be answered at most."""

    texts: list[list[int]]  # as tokens
    field: str  # of the request, that has them
    form: Answering
    advice: Callable[[int], str]
    timeout_s: float | None
    keeps_body: bool = False  # something of it is needed for the answer


Read = Callable[[bytes, Names], Wanted]


class Embeddings:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def operations(self) -> list[Operation]:
        mine = functools.partial(Operation, access=Access.TENANT, scopes=(Scope.RUN,), headers=(KEY_PARAMETER,))
        return [
            mine("POST", "/v1/embeddings", self.embeddings, EmbeddingList, EmbeddingsRequest),
            mine("POST", "/v1/rerank", self.rerank, RankedList, RerankRequest),
        ]

    async def embeddings(self, request: Request) -> Response:
        """Turn texts into vectors."""
        if not self._service.config.embeddings.is_on:
            raise EmbeddingsOff(
                "this server has no embeddings; an administrator can enable them: model or pooling in the [embeddings] "
                "table of its configuration"
            )
        return await self._answer(request, self._read_inputs)

    async def rerank(self, request: Request) -> Response:
        """Rank documents by how well they match a query."""
        if not self._service.config.embeddings.is_on:
            raise _cannot_rank()
        return await self._answer(request, self._read_pairs)

    async def _answer(self, request: Request, read: Read) -> Response:
        service, tenant, key = self._service, tenant_of(request), idempotency_key(request)
        raw = await read_body(request, service.config.server.max_body_bytes)
        require_live_key(request.scope, service.directory)
        if isinstance(attempt := await begin_attempt(service, request, tenant, key, raw), KeptAnswer):
            return Replay(service, attempt)
        names = Names(lenient=service.config.server.lenient)
        with letting_go(attempt), names.as_sent():
            work = functools.partial(read, raw, names)
            wanted = await while_connected(request, service.pool.run(tenant.name, work, len(raw)))
            del raw, work
            if not wanted.keeps_body:
                give_back_body(request.scope)
            texts, form = wanted.texts, wanted.form
            check_answer(request.scope, form.answer_bytes(len(texts)), wanted.advice)
            generation = Generation(
                kind="embedding",
                prompt=[token for tokens in texts for token in tokens],
                texts=tuple(map(len, texts)),
                texts_field=wanted.field,
                sampling=Sampling(temperature=0),
                client_id=client_id(request),
            )
            return VectorExchange(
                service, tenant, generation, form, timeout_s=wanted.timeout_s, headers=names.header(), attempt=attempt
            )

    # -- in the pool

    def _read_inputs(self, raw: bytes, names: Names) -> Wanted:
        """What a request for vectors asks for. Raises InvalidRequest."""
        body = read_request(EmbeddingsRequest, raw, names)
        info = self._info(body.model)
        if info.ranks:
            raise EmbeddingsOff("this server's model only ranks documents (POST /v1/rerank) and makes no vectors")
        texts = read_inputs(
            body.input,
            self._service.embedding_vocabulary,
            most_inputs=self._service.config.embeddings.max_inputs,
            most_tokens=info.input_tokens,
        )
        form = Form(info.dimensions, _dimensions(body, info), body.encoding_format == "base64")
        return Wanted(texts, "input", form, functools.partial(_fewer_inputs, form), body.timeout_s)

    def _read_pairs(self, raw: bytes, names: Names) -> Wanted:
        """What a request to rank asks for. Raises InvalidRequest."""
        body = read_request(RerankRequest, raw, names)
        info = self._info(body.model)
        if not info.ranks:
            raise _cannot_rank()
        texts = read_pairs(
            body.query,
            body.documents,
            self._service.embedding_vocabulary,
            most_inputs=self._service.config.embeddings.max_inputs,
            most_tokens=info.input_tokens,
        )
        shown = [msgspec.json.encode(text) for text in body.documents] if body.return_documents else None
        form = Ranking(info.dimensions, body.top_n or len(texts), shown)
        return Wanted(texts, "documents", form, _fewer_documents, body.timeout_s, keeps_body=shown is not None)

    def _info(self, model: str) -> EmbeddingInfo:
        """What the engine embeds or ranks with. Raises ModelNotFound, ModelNotLoaded."""
        if model:
            check_model(model, self._service.config.embeddings_name)
        info = self._service.supervisor.info
        if info is None or info.embeddings is None:
            raise ModelNotLoaded(
                f"the model is not loaded ({self._service.supervisor.state}); GET /readyz shows its progress",
                retry_after_s=2,
            )
        return info.embeddings


def _cannot_rank() -> EmbeddingsOff:
    return EmbeddingsOff(
        "this server cannot rank: that needs a model made for it (a reranker, with the pooling type rank); an "
        "administrator can set one as model in the [embeddings] table of its configuration"
    )


def _fewer_inputs(form: Form, most_bytes: int) -> str:
    return f"send at most {most_bytes // form.answer_bytes(1)} inputs in one request" + (
        "" if form.as_base64 else ', or ask for encoding_format "base64", which takes half'
    )


def _fewer_documents(most_bytes: int) -> str:
    return "send fewer documents in one request, or leave out return_documents"


def _dimensions(body: EmbeddingsRequest, info: EmbeddingInfo) -> int:
    """How many numbers of each vector are asked for. Raises InvalidRequest."""
    wanted = body.dimensions or info.dimensions
    if wanted > info.dimensions:
        raise InvalidRequest(
            f"dimensions: this model's vectors have {info.dimensions} numbers; ask for no more (got {wanted})",
            param="dimensions",
        )
    return wanted
