"""The body and the answer of /v1/embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, NotRequired, TypedDict

from pydantic import BeforeValidator, FailFast, Field, WithJsonSchema

from tenantd.api.names import Fields, Foreign
from tenantd.api.openai import known_names

_TEXT: Final[dict[str, Any]] = {"type": "string", "minLength": 1}
_TOKENS: Final[dict[str, Any]] = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_INPUT: Final[dict[str, Any]] = {
    "description": "A text, token ids, or several of either",
    "anyOf": [
        _TEXT,
        _TOKENS,
        {"type": "array", "minItems": 1, "items": _TEXT},
        {"type": "array", "minItems": 1, "items": _TOKENS},
    ],
}


class EmbeddingsRequest(Fields):
    """POST /v1/embeddings."""

    foreign: ClassVar[Mapping[str, Foreign]] = known_names.EMBEDDINGS

    input: Annotated[Any, WithJsonSchema(_INPUT)]
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=1 << 20)  # keep only the first N numbers of each vector
    timeout_s: float | None = Field(None, gt=0, le=86_400)


_DOCUMENT: Final[dict[str, Any]] = {
    "anyOf": [_TEXT, {"type": "object", "required": ["text"], "properties": {"text": _TEXT}}]
}


def _text_of(value: Any) -> Any:
    """The text of a document, which some clients send as an object."""
    return value["text"] if isinstance(value, dict) and value.keys() == {"text"} else value


Document = Annotated[str, Field(min_length=1), BeforeValidator(_text_of), WithJsonSchema(_DOCUMENT)]


class RerankRequest(Fields):
    """POST /v1/rerank."""

    foreign: ClassVar[Mapping[str, Foreign]] = known_names.RERANK

    query: str = Field(min_length=1)
    documents: Annotated[list[Document], FailFast(), Field(min_length=1)]
    model: str = ""
    top_n: int | None = Field(None, ge=1, le=1 << 20)  # only the first N results
    return_documents: bool | None = None
    timeout_s: float | None = Field(None, gt=0, le=86_400)


class RankedDocument(TypedDict):
    """A document that was ranked."""

    text: str


class Ranked(TypedDict):
    """How well a document matches the query: the model's own score, of which only the order means something. `index` is
    its place among the documents of the request, from 0."""

    index: int
    relevance_score: float
    document: NotRequired[RankedDocument]


class Embedding(TypedDict):
    """The vector of an input: numbers, or in base64 their 32-bit little-endian floats. Its length is 1."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """What was billed."""

    prompt_tokens: int
    total_tokens: int


class RankedList(TypedDict):
    """The documents, the best first."""

    object: Literal["list"]
    results: list[Ranked]
    model: str
    usage: EmbeddingUsage


class EmbeddingList(TypedDict):
    """A vector for each input, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
