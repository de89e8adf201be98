"""The body of POST /v1/responses, and the fields in it that are not ours. docs/api.md contains this table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, WithJsonSchema

from tenantd.api.names import Fields, Foreign, Refused, Same, Taken
from tenantd.api.openai.types import Effort, OutputTokens, Seed, ServiceTier, Stops, TopK
from tenantd.text.tools import MOST_TOOLS

RESPONSE: Final[dict[str, Foreign]] = {
    "max_tokens": Same("max_output_tokens"),
    "max_completion_tokens": Same("max_output_tokens"),
    "user": Taken("a label only; the key identifies the client"),
    "safety_identifier": Taken("a label only; the key identifies the client"),
    "prompt_cache_key": Taken("affects speed only"),
    "prompt_cache_options": Taken("affects speed only"),
    "prompt_cache_retention": Taken("affects speed only"),
    "max_tool_calls": Taken("counts only tools that a server runs"),
    "messages": Refused("send them as `input`"),
    "response_format": Refused("use `text.format`"),
    "reasoning_effort": Refused("use `reasoning.effort`"),
    "conversation": Refused("use `previous_response_id`"),
    "prompt": Refused("prompts are not stored; send it as `input`"),
    "top_logprobs": Refused("use /v1/chat/completions", (0,)),
    "context_management": Refused("a conversation that is too long is refused", ([],)),
    "moderation": Refused("moderation is not supported"),
    "n": Refused("a response has one answer", (1,)),
}
"""Fields of /v1/responses."""
TEXT: Final[dict[str, Foreign]] = {"verbosity": Refused("ask for it in `instructions`", ("medium",))}
"""Fields of `text`."""
REASONING: Final[dict[str, Foreign]] = {
    "summary": Taken("reasoning is shown in full"),
    "generate_summary": Taken("reasoning is shown in full"),
    "mode": Refused("there is only one mode", ("standard",)),
    "context": Refused("the template decides", ("auto",)),
}
"""Fields of `reasoning`."""
STREAM_OPTIONS: Final[dict[str, Foreign]] = {
    "include_obfuscation": Taken("no padding is sent"),
    "include_usage": Taken("the last event always has the usage"),
}
"""Fields of `stream_options`."""

MOST_ID_CHARACTERS: Final = 256
MOST_LABELS: Final = 16  # as at OpenAI
Include = Literal[
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
    "file_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "message.input_image.image_url",
]
"""What answers could include if they had it. Log probabilities are not among them."""

_ITEM: Final = {"type": "object", "description": "A message, function_call, function_call_output or reasoning"}
_INPUT: Final = {"anyOf": [{"type": "string"}, {"type": "array", "items": _ITEM}]}
_TOOL: Final = {
    "type": "object",
    "required": ["type", "name"],
    "properties": {
        "type": {"const": "function"},
        "name": {"type": "string"},
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
}
_CHOICE: Final = {
    "anyOf": [
        {"enum": ["auto", "none", "required", None]},
        {
            "type": "object",
            "required": ["type", "name"],
            "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
        },
    ]
}
Label = Annotated[str, Field(max_length=512)]
Labels = Annotated[dict[Annotated[str, Field(max_length=64)], Label], Field(max_length=MOST_LABELS)]


class TextFormat(Fields):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextSettings(Fields):
    """`text`."""

    foreign: ClassVar[Mapping[str, Foreign]] = TEXT

    format: TextFormat | None = None


class ReasoningSettings(Fields):
    """`reasoning`."""

    foreign: ClassVar[Mapping[str, Foreign]] = REASONING

    effort: Effort | None = None


class EventSettings(Fields):
    """`stream_options`."""

    foreign: ClassVar[Mapping[str, Foreign]] = STREAM_OPTIONS


class ResponseRequest(Fields):
    """POST /v1/responses."""

    foreign: ClassVar[Mapping[str, Foreign]] = RESPONSE

    model: str = ""
    input: Annotated[Any, WithJsonSchema(_INPUT)]
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=MOST_ID_CHARACTERS)] | None = None
    store: bool | None = None
    background: bool | None = None  # answer at once, and go on without the client
    max_output_tokens: OutputTokens = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: TopK = None
    min_p: float | None = Field(None, ge=0, le=1)
    seed: Seed = None
    stop: Stops | None = None
    ignore_eos: bool | None = None
    tools: (
        Annotated[list[Any], Field(max_length=MOST_TOOLS), WithJsonSchema({"type": "array", "items": _TOOL})] | None
    ) = None
    tool_choice: Annotated[Any, WithJsonSchema(_CHOICE)] = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include: list[Include] | None = Field(None, max_length=16)
    metadata: Labels | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: ServiceTier | None = None
    stream: bool | None = None
    stream_options: EventSettings | None = None
    timeout_s: float | None = Field(None, gt=0, le=86_400)
