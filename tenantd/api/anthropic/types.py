"""The bodies of Anthropic's routes, and the fields in them that are not ours. docs/api.md contains this table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, WithJsonSchema

from tenantd.api.names import Fields, Foreign, Refused, Same, Taken
from tenantd.api.openai.types import Effort, OutputTokens, Seed, StopTexts, TopK
from tenantd.text.tools import MOST_TOOLS

MESSAGES: Final[dict[str, Foreign]] = {
    "stop": Same("stop_sequences"),
    "metadata": Taken("labels only; the key identifies the client"),
    "cache_control": Taken("affects speed only"),
    "inference_geo": Taken("there is only one place"),
    "speed": Refused("an administrator sets a tenant's weight and priority", ("standard",)),
    "container": Refused("this server runs no tools"),
    "mcp_servers": Refused("this server runs no tools", ([],)),
    "context_management": Refused("a conversation that is too long is refused", ({}, {"edits": []})),
    "output_format": Refused("use `output_config.format`"),
}
"""Fields of /v1/messages."""
OUTPUT: Final[dict[str, Foreign]] = {"task_budget": Refused("use `max_tokens`")}
"""Fields of `output_config`."""
THINKING: Final[dict[str, Foreign]] = {
    "budget_tokens": Taken("reasoning counts towards `max_tokens`"),
    "display": Taken("reasoning is shown in full"),
}
"""Fields of `thinking`."""

_BLOCKS: Final = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
_MESSAGE: Final = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["user", "assistant", "system"]}, "content": _BLOCKS},
}
_TOOL: Final = {
    "type": "object",
    "required": ["name", "input_schema"],
    "properties": {
        "name": {"type": "string"},
        "description": {"type": ["string", "null"]},
        "input_schema": {"type": "object"},
    },
}
_CHOICE: Final = {
    "type": ["object", "null"],
    "required": ["type"],
    "properties": {"type": {"enum": ["auto", "any", "tool", "none"]}, "name": {"type": "string"}},
}


class OutputFormat(Fields):
    """`output_config.format`."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Fields):
    """`output_config`."""

    foreign: ClassVar[Mapping[str, Foreign]] = OUTPUT

    effort: Effort | None = None
    format: OutputFormat | None = None


class Thinking(Fields):
    """`thinking`."""

    foreign: ClassVar[Mapping[str, Foreign]] = THINKING

    type: Literal["enabled", "adaptive", "disabled"]


class MessagesRequest(Fields):
    """POST /v1/messages, and what of it /v1/messages/count_tokens takes."""

    foreign: ClassVar[Mapping[str, Foreign]] = MESSAGES

    model: str = ""
    messages: Annotated[list[Any], Field(min_length=1), WithJsonSchema({"type": "array", "items": _MESSAGE})]
    system: Annotated[
        Any, WithJsonSchema({"anyOf": [_BLOCKS, {"type": "null"}], "description": "A text, or blocks of text"})
    ] = None
    max_tokens: OutputTokens = None
    stop_sequences: StopTexts | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: TopK = None
    min_p: float | None = Field(None, ge=0, le=1)
    seed: Seed = None
    ignore_eos: bool | None = None
    tools: (
        Annotated[list[Any], Field(max_length=MOST_TOOLS), WithJsonSchema({"type": "array", "items": _TOOL})] | None
    ) = None
    tool_choice: Annotated[Any, WithJsonSchema(_CHOICE)] = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    stream: bool | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    timeout_s: float | None = Field(None, gt=0, le=86_400)
