"""What clients get from the OpenAI routes. `answers.py` makes it; the API's description is made from these types."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from tenantd.errors import TokenUsage

End = Literal["stop", "length"]


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
    but in the last one. `x_tenantd` tells that a budget ended it; then a choice's last chunk has its own usage."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
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


class AnswerMessage(TypedDict):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One answer to the conversation."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: End


class ChatCompletion(TypedDict):
    """An answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    x_tenantd: NotRequired[Remark]


class Delta(TypedDict, total=False):
    """More of a message: the role first, then text, nothing in the last chunk of a choice."""

    role: Literal["assistant"]
    content: str


class ChunkChoice(TypedDict):
    """More of one choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: End | None


class ChatCompletionChunk(TypedDict):
    """An event of a streamed chat. The last one has no choices and the usage, if the client asked for it.
    `x_tenantd` tells that a budget ended a choice; that chunk has the choice's own usage."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[TokenUsage | None]
    x_tenantd: NotRequired[Remark]


class Model(TypedDict):
    """The model that is served. `max_model_len`: tokens of a request, prompt and output; null while it loads."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ModelList(TypedDict):
    """One model: the daemon serves no other."""

    object: Literal["list"]
    data: list[Model]


class Waiting(TypedDict):
    """A request without a token. `position` 1 gets the next one; `estimated_wait_ms` is until its first."""

    id: str
    client_request_id: str
    tenant: str
    position: int
    waited_ms: int
    estimated_wait_ms: int


class Queue(TypedDict):
    """A tenant's waiting requests, in queue order."""

    waiting: list[Waiting]
