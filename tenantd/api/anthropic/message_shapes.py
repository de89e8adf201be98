"""What clients get from Anthropic's routes. `message_answer.py` makes it; the API's description is made from these."""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired, TypedDict

import msgspec

from tenantd.api.dialect import AnthropicDetail
from tenantd.api.openai.shapes import Remark
from tenantd.domain import Tier


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """What the model said."""

    text: str


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """What the model thought before. It is not signed."""

    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call of one of the request's tools."""

    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | ToolUseBlock


AnthropicTier = Literal["priority", "standard", "batch"]
TIERS: Final[dict[Tier, AnthropicTier]] = {"priority": "priority", "default": "standard", "flex": "batch"}
"""Anthropic's names."""


class MessageUsage(TypedDict):
    """Tokens, as they are billed. `input_tokens` are those that were not cached. `service_tier` is the class of the
    tenant, if the request had one."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    service_tier: NotRequired[AnthropicTier]


class MessageBody(TypedDict):
    """A message. `x_tenantd` tells that a budget ended it."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessageUsage
    x_tenantd: NotRequired[Remark]


class MessageEvent(TypedDict):
    """An event of a streamed message. The other fields depend on its type, as at Anthropic."""

    type: str
    message: NotRequired[MessageBody]
    index: NotRequired[int]
    content_block: NotRequired[Block]
    delta: NotRequired[dict[str, Any]]
    usage: NotRequired[MessageUsage]
    error: NotRequired[AnthropicDetail]
    x_tenantd: NotRequired[Remark]


class TokenCount(TypedDict):
    """How many tokens the prompt of a request has."""

    input_tokens: int
