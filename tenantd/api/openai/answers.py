"""OpenAI's two answer formats, whole and as stream events.

A stream has one event per token, tens of thousands per second, and only the text differs between events. `text_frame`
therefore returns the bytes around the text, which are built once per choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from tenantd.domain import FinishReason, TokenLogprobs
from tenantd.errors import TokenUsage
from tenantd.live.streams import Delta
from tenantd.request_ids import CHAT_PREFIX, COMPLETION_PREFIX, answer_id
from tenantd.text.vocabulary import Vocabulary

LEAST_LOGPROB: Final = -9999.0
"""What OpenAI sends for an impossible token; JSON has no infinity."""
DONE: Final = b"data: [DONE]\n\n"
CALLED: Final = "tool_calls"
"""`finish_reason` of an answer that calls tools."""
OUT_OF_BUDGET: Final = {"x_tenantd": {"reason": "budget"}}
"""What an answer has besides OpenAI's fields if it is incomplete because a budget is used up."""
_HOLE: Final = "\x00"
"""Placeholder for a frame's text. JSON escapes it, so it cannot occur elsewhere in the frame."""

_LINE_ENDS: Final = [(chr(code).encode(), b"\\u%04x" % code) for code in (0x2028, 0x2029, 0x85)]

encode_json = msgspec.json.Encoder().encode


def encode_line(content: Any) -> bytes:
    """JSON without U+2028, U+2029 and U+0085, which some clients treat as line ends."""
    line = encode_json(content)
    if b"\xe2\x80" in line or b"\xc2\x85" in line:
        for character, escape in _LINE_ENDS:
            line = line.replace(character, escape)
    return line


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + encode_line(content) + b"\n\n"


class Answer(ABC):
    """Formats one response. With `with_usage`, a stream ends with a chunk that holds the usage."""

    object: ClassVar[str]
    chunk_object: ClassVar[str]
    id_prefix: ClassVar[str]

    def __init__(
        self,
        *,
        request_id: str,
        model: str,
        created_s: int,
        vocabulary: Vocabulary,
        with_usage: bool = False,
        fingerprint: str = "",
        service_tier: str | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._with_usage = with_usage
        self._head: dict[str, Any] = {
            "id": answer_id(request_id, self.id_prefix),
            "created": created_s,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        if service_tier is not None:
            self._head["service_tier"] = service_tier

    # -- whole

    def whole(
        self, choices: list[dict[str, Any]], usage: TokenUsage, *, is_out_of_budget: bool = False
    ) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        body = {**self._head, "object": self.object, "choices": choices, "usage": usage}
        return {**body, **OUT_OF_BUDGET} if is_out_of_budget else body

    @abstractmethod
    def choice(self, index: int, text: str, logprobs: Any, end: str) -> dict[str, Any]:
        """One element of `choices`, with its `finish_reason`. Subclasses decide where the text goes."""

    # -- streamed

    def opening_event(self, index: int) -> bytes:
        """The event that starts a choice, before any text."""
        return b""

    def text_frame(self, index: int) -> tuple[bytes, bytes]:
        """The bytes before and after the JSON text of an event without logprobs."""
        before, after = self._chunk(self._piece(index, _HOLE, None)).split(encode_json(_HOLE))
        return before, after

    def logprobs_event(self, index: int, deltas: list[Delta], offset: int) -> bytes:
        """An event with logprobs. `offset` is the number of characters of the choice before it."""
        return self._chunk(self._piece(index, "".join(d.text for d in deltas), self.logprobs(deltas, offset)))

    def finish_event(self, index: int, end: str) -> bytes:
        """A choice's last event."""
        return self._chunk(self._last_piece(index, end))

    def out_of_budget_event(self, index: int, usage: TokenUsage) -> bytes:
        """The last event of a choice that was ended because a budget is used up, with what the choice has used."""
        choice = self._last_piece(index, FinishReason.LENGTH.value)
        return event({**self._head, "object": self.chunk_object, "choices": [choice], "usage": usage, **OUT_OF_BUDGET})

    def usage_event(self, usage: TokenUsage) -> bytes:
        """The stream's last event before [DONE], if the client asked for it."""
        return event({**self._head, "object": self.chunk_object, "choices": [], "usage": usage})

    @abstractmethod
    def logprobs(self, deltas: list[Delta], offset: int = 0) -> Any:
        """The logprobs of these tokens, None if they have none."""

    @abstractmethod
    def _piece(self, index: int, text: str, logprobs: Any) -> dict[str, Any]: ...

    @abstractmethod
    def _last_piece(self, index: int, reason: str) -> dict[str, Any]: ...

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        chunk = {**self._head, "object": self.chunk_object, "choices": [choice]}
        return event({**chunk, "usage": None} if self._with_usage else chunk)

    def _token_text(self, token: int) -> str:
        return self._vocabulary.piece(token).decode("utf-8", "replace")


class CompletionAnswer(Answer):
    """/v1/completions."""

    object = "text_completion"
    chunk_object = "text_completion"
    id_prefix = COMPLETION_PREFIX

    def choice(self, index: int, text: str, logprobs: Any, end: str) -> dict[str, Any]:
        return {**self._piece(index, text, logprobs), "finish_reason": end}

    def logprobs(self, deltas: list[Delta], offset: int = 0) -> Any:
        tokens: list[str] = []
        chosen: list[float] = []
        top: list[dict[str, float]] = []
        offsets: list[int] = []
        for delta in deltas:
            if delta.logprobs is not None:
                tokens.append(self._token_text(delta.token))
                chosen.append(_finite(delta.logprobs.logprob))
                top.append(self._by_text(delta.logprobs))
                offsets.append(offset)
            offset += len(delta.text)
        if not tokens:
            return None
        return {"tokens": tokens, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets}

    def _by_text(self, logprobs: TokenLogprobs) -> dict[str, float]:
        """Best first. If two tokens have the same text (parts of a character), the better one is kept."""
        best: dict[str, float] = {}
        for token, logprob in logprobs.top:
            best.setdefault(self._token_text(token), _finite(logprob))
        return best

    def _piece(self, index: int, text: str, logprobs: Any) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}

    def _last_piece(self, index: int, reason: str) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}


class CalledTool(NamedTuple):
    """A call of a tool; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


class Said(NamedTuple):
    """What an answer consists of."""

    content: str
    reasoning: str
    calls: list[CalledTool]


class ChatAnswer(Answer):
    """/v1/chat/completions."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = CHAT_PREFIX

    def choice(self, index: int, text: str, logprobs: Any, end: str) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": logprobs,
            "finish_reason": end,
        }

    def opening_event(self, index: int) -> bytes:
        return self._chunk(self._delta(index, {"role": "assistant", "content": ""}, None, None))

    def said_choice(self, index: int, said: Said, logprobs: Any, end: str) -> dict[str, Any]:
        """As `choice`, of an answer with reasoning or calls."""
        message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.calls:
            message["content"] = said.content or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in said.calls
            ]
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": end}

    def delta_event(self, index: int, delta: dict[str, Any], logprobs: Any) -> bytes:
        """An event with any part of a message."""
        return self._chunk(self._delta(index, delta, logprobs, None))

    def logprobs(self, deltas: list[Delta], offset: int = 0) -> Any:
        content = [
            {**self._token(d.token, d.logprobs.logprob), "top_logprobs": self._top(d.logprobs)}
            for d in deltas
            if d.logprobs is not None
        ]
        return {"content": content, "refusal": None} if content else None

    def _top(self, logprobs: TokenLogprobs) -> list[dict[str, Any]]:
        return [self._token(token, logprob) for token, logprob in logprobs.top]

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        piece = self._vocabulary.piece(token)
        return {"token": piece.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(piece)}

    def _piece(self, index: int, text: str, logprobs: Any) -> dict[str, Any]:
        return self._delta(index, {"content": text}, logprobs, None)

    def _last_piece(self, index: int, reason: str) -> dict[str, Any]:
        return self._delta(index, {}, None, reason)

    def _delta(self, index: int, delta: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
