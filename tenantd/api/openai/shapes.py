"""What clients get from the OpenAI routes. `answers.py` makes it; the API's description is made from these types."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from tenantd.domain import Tier
from tenantd.errors import TokenUsage

End = Literal["stop", "length"]
ChatEnd = Literal["stop", "length", "tool_calls"]


class Remark(TypedDict):
    """Why an answer ended that is incomplete: a budget is used up."""

    reason: Literal["budget"]


class CompletionLogprobs(TypedDict):
    """Lists with one element for each token. Several tokens of one text are one entry of `top_logprobs`."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One answer to one prompt. In a stream `finish_reason` is null until the choice's last chunk."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: End | None


class Completion(TypedDict):
    """An answer of /v1/completions, or a chunk of one. A chunk has `usage` with `stream_options.include_usage`: null
    but in the last one. `x_tenantd` tells that a budget ended it; then a choice's last chunk has its own usage.
    `service_tier` is the class in which it ran, if the request had one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Tier]
    choices: list[CompletionChoice]
    usage: NotRequired[TokenUsage | None]
    x_tenantd: NotRequired[Remark]


class ShownToken(TypedDict):
    """A token as text and as bytes, with its natural-log probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(ShownToken):
    """A token of the answer, and the likeliest ones in its place."""

    top_logprobs: list[ShownToken]


class ChatLogprobs(TypedDict):
    """An element for each token of the answer."""

    content: list[ChosenToken]
    refusal: None


class CalledFunction(TypedDict):
    """The tool that is called, with arguments as JSON."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call of one of the request's tools."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(TypedDict):
    """What the model said. `content` may be null beside calls. `reasoning_content` is what it thought before."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One answer to the conversation."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatEnd


class ChatCompletion(TypedDict):
    """An answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Tier]
    choices: list[ChatChoice]
    usage: TokenUsage
    x_tenantd: NotRequired[Remark]


class FunctionDelta(TypedDict, total=False):
    """The name in a call's first event; then more of its arguments."""

    name: str
    arguments: str


class CallDelta(TypedDict):
    """A call, or more of one; the first event has its id."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Delta(TypedDict, total=False):
    """More of a message: the role first, then text or calls, nothing in the last chunk of a choice."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str
    tool_calls: list[CallDelta]


class ChunkChoice(TypedDict):
    """More of one choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatEnd | None


class ChatCompletionChunk(TypedDict):
    """An event of a streamed chat. The last one has no choices and the usage, if the client asked for it.
    `x_tenantd` tells that a budget ended a choice; that chunk has the choice's own usage."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Tier]
    choices: list[ChunkChoice]
    usage: NotRequired[TokenUsage | None]
    x_tenantd: NotRequired[Remark]


class ModelLimits(TypedDict):
    """The limits of the tenant that asks. Null is unlimited."""

    max_context_tokens: int | None
    max_tokens_per_request: int | None
    max_concurrent: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None


class Model(TypedDict):
    """A model. `max_model_len`: tokens of a request, prompt and output, or of a text to embed; null while it loads.

    `context_length` is the same, or less if the tenant's limit is. `limits` are there if it is clear which tenant asks.
    `chat_template`: whether it has a usable one; otherwise it is probably a base model, and chats are plain text.
    `input_modalities`: what its chats may consist of.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None
    context_length: int | None
    system_fingerprint: str | None
    limits: NotRequired[ModelLimits]
    chat_template: bool
    input_modalities: list[Literal["text", "image"]]


class ModelList(TypedDict):
    """The model that generates, and the one that embeds texts if it is another."""

    object: Literal["list"]
    data: list[Model]


class Waiting(TypedDict):
    """A request without a token. `position` 1 gets the next one; `estimated_wait_ms` is until its first.

    Nine of ten waits are between `estimated_wait_low_ms` and `estimated_wait_high_ms`.
    """

    id: str
    client_request_id: str
    tenant: str
    position: int
    waited_ms: int
    estimated_wait_ms: int
    estimated_wait_low_ms: int
    estimated_wait_high_ms: int


class Queue(TypedDict):
    """A tenant's waiting requests, in queue order."""

    waiting: list[Waiting]
