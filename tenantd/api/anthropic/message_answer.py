"""Writes a message of Anthropic's API: its blocks, and the events that tell of them."""

from __future__ import annotations

import json
import secrets
from typing import Any, Final

from tenantd.api.anthropic.message_shapes import TIERS, MessageUsage
from tenantd.api.dialect import anthropics_body
from tenantd.api.openai.answers import OUT_OF_BUDGET, encode_line
from tenantd.api.openai.translated import Ending, Written
from tenantd.domain import Tier
from tenantd.errors import TenantdError, TokenUsage
from tenantd.text.calls import Part

_KINDS: Final = {"content": "text", "reasoning": "thinking", "call": "tool_use"}


class _Block:
    """One block while it grows."""

    def __init__(self, kind: str, index: int, name: str = "") -> None:
        self.kind = kind
        self.index = index
        self.texts: list[str] = []
        self.call = {"id": f"toolu_{secrets.token_hex(12)}", "name": name} if kind == "tool_use" else {}

    def begun(self) -> dict[str, Any]:
        if self.kind == "tool_use":
            return {"type": "tool_use", **self.call, "input": {}}
        return self._with("")

    def delta(self, text: str) -> dict[str, Any]:
        if self.kind == "tool_use":
            return {"type": "input_json_delta", "partial_json": text}
        return {"type": f"{self.kind}_delta", self.kind: text}

    def whole(self) -> dict[str, Any]:
        text = "".join(self.texts)
        return {**self.begun(), "input": _object(text)} if self.kind == "tool_use" else self._with(text)

    def _with(self, text: str) -> dict[str, Any]:
        more = {"signature": ""} if self.kind == "thinking" else {}
        return {"type": self.kind, self.kind: text, **more}


def _object(text: str) -> dict[str, Any]:
    """The arguments of a call; {} for those that were cut off."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class MessageAnswer(Written):
    """One message. `stops` are the request's stop sequences; `usage` is what it has used until its first token."""

    def __init__(
        self, message_id: str, model: str, usage: TokenUsage, stops: tuple[str, ...], tier: Tier | None
    ) -> None:
        self._head = {"id": message_id, "type": "message", "role": "assistant", "model": model}
        self._usage = usage
        self._stops = stops
        self._tier = tier
        self._blocks: list[_Block] = []
        self._open: _Block | None = None

    def opening(self) -> bytes:
        begun: dict[str, Any] = {
            **self._head,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._used(self._usage),
        }
        return _event("message_start", message=begun) + _event("ping")

    def take(self, parts: list[Part]) -> bytes:
        return b"".join([self._more(part) for part in parts])

    def closing(self, ending: Ending) -> bytes:
        end = self._end(ending)
        more = OUT_OF_BUDGET if ending.is_out_of_budget else {}
        last = _event("message_delta", delta=end, usage=self._used(ending.usage), **more)
        return self._stop() + last + _event("message_stop")

    def failure(self, error: TenantdError) -> bytes:
        return b"event: error\ndata: %s\n\n" % encode_line(anthropics_body(error))

    def whole(self, ending: Ending) -> dict[str, Any]:
        body = {
            **self._head,
            "content": [block.whole() for block in self._blocks],
            **self._end(ending),
            "usage": self._used(ending.usage),
        }
        return {**body, **OUT_OF_BUDGET} if ending.is_out_of_budget else body

    def _used(self, usage: TokenUsage) -> MessageUsage:
        """Anthropic counts cached tokens apart from input tokens."""
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        used = MessageUsage(
            input_tokens=usage["prompt_tokens"] - cached,
            cache_creation_input_tokens=0,
            cache_read_input_tokens=cached,
            output_tokens=usage["completion_tokens"],
        )
        if self._tier is not None:
            used["service_tier"] = TIERS[self._tier]
        return used

    def _end(self, ending: Ending) -> dict[str, Any]:
        if ending.is_cut:
            reason = "max_tokens"
        elif any(block.kind == "tool_use" for block in self._blocks):
            reason = "tool_use"
        else:
            reason = "stop_sequence" if ending.is_stopped and self._stops else "end_turn"
        sequence = self._stops[0] if reason == "stop_sequence" and len(self._stops) == 1 else None
        return {"stop_reason": reason, "stop_sequence": sequence}

    def _more(self, part: Part) -> bytes:
        if part.kind == "call":
            return self._stop() + self._begin(_Block("tool_use", len(self._blocks), part.text))
        kind = _KINDS.get(part.kind, "tool_use")
        events = b""
        if self._open is None or self._open.kind != kind:
            events = self._stop() + self._begin(_Block(kind, len(self._blocks)))
        block = self._open
        assert block is not None
        block.texts.append(part.text)
        return events + _event("content_block_delta", index=block.index, delta=block.delta(part.text))

    def _begin(self, block: _Block) -> bytes:
        self._blocks.append(block)
        self._open = block
        return _event("content_block_start", index=block.index, content_block=block.begun())

    def _stop(self) -> bytes:
        block, self._open = self._open, None
        return b"" if block is None else _event("content_block_stop", index=block.index)


def _event(kind: str, **more: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encode_line({"type": kind, **more}))
