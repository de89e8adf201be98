"""What clients get from /v1/responses. `answer.py` makes it; the API's description is made from these types."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from tenantd.api.openai.shapes import Remark
from tenantd.domain import Tier

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputText(TypedDict):
    """Text of a message. There are never annotations or log probabilities."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class ReasoningText(TypedDict):
    """What the model thought."""

    type: Literal["reasoning_text"]
    text: str


class MessageItem(msgspec.Struct, tag_field="type", tag="message"):
    """What the model said."""

    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class CallItem(msgspec.Struct, tag_field="type", tag="function_call"):
    """A call of one of the request's tools, with arguments as JSON."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class ReasoningItem(msgspec.Struct, tag_field="type", tag="reasoning"):
    """What the model thought before. There is never a summary."""

    id: str
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningText]


class InputDetails(TypedDict):
    """Of the input tokens, those that were not computed because an earlier prompt began with them."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(TypedDict):
    """Of the output tokens, those of reasoning, as near as can be told."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens, as they are billed."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Cut(TypedDict):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class Failure(TypedDict):
    """Why a response failed that was streamed, or made in the background."""

    code: str
    message: str


class ResponseBody(TypedDict):
    """A response. `store`: it is kept. `x_tenantd` tells that a budget ended it. The rest repeats the request."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Status
    error: Failure | None
    incomplete_details: Cut | None
    output: list[MessageItem | CallItem | ReasoningItem]
    usage: ResponseUsage | None
    store: bool
    background: bool
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: Literal["disabled"]
    service_tier: NotRequired[Tier]
    x_tenantd: NotRequired[Remark]


class ResponseEvent(TypedDict):
    """An event of a streamed response. The other fields depend on its type, as at OpenAI."""

    type: str
    sequence_number: int
    response: NotRequired[ResponseBody]
    item: NotRequired[MessageItem | CallItem | ReasoningItem]
    part: NotRequired[dict[str, Any]]
    item_id: NotRequired[str]
    output_index: NotRequired[int]
    content_index: NotRequired[int]
    delta: NotRequired[str]
    text: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]
    logprobs: NotRequired[list[Any]]


class InputItems(TypedDict):
    """What a response answers."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(TypedDict):
    """A response that was deleted."""

    id: str
    object: Literal["response"]
    deleted: bool
