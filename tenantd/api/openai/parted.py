"""Answers that are more than text: reasoning, content and calls of tools, streamed or whole.

Log probabilities are those of all tokens of an answer, in their order, also of reasoning and calls.
"""

from __future__ import annotations

import secrets
from typing import Final

from tenantd.api.openai.answers import CalledTool, ChatAnswer, Said, encode_line
from tenantd.live.streams import Delta
from tenantd.text.calls import Part
from tenantd.text.reading import Reading

MOST_WAITING: Final = 16
"""Tokens whose log probabilities wait for the end of a call, which may be thousands of tokens away. They become JSON in
the event loop, so never many at once."""


class PartedEvents:
    """Builds the events of one streamed choice."""

    def __init__(self, answer: ChatAnswer, index: int, reading: Reading) -> None:
        self._answer = answer
        self._index = index
        self._reader = reading.reader()
        self._frame = answer.text_frame(index)
        self._waiting: list[Delta] = []  # tokens whose log probabilities were not sent yet
        self.calls = 0

    def take(self, deltas: list[Delta]) -> bytes:
        """Add tokens and return the events that are now complete."""
        if self._reader.is_plain and not self._waiting and deltas[0].logprobs is None:
            before, after = self._frame  # an answer is long, and there is nothing left to find in it
            return b"".join([before + encode_line(delta.text) + after for delta in deltas if delta.text])
        events: list[bytes] = []
        for delta in deltas:
            if delta.logprobs is not None:
                self._waiting.append(delta)
            if delta.text and (parts := self._reader.push(delta.text)):
                events += self._events(parts)
            if len(self._waiting) >= MOST_WAITING and delta.text:
                events.append(self._event({"content": ""}))
        return b"".join(events)

    def finish(self) -> bytes:
        """The rest, once no token follows."""
        events = self._events(self._reader.finish())
        while self._waiting and not self._waiting[-1].text:
            self._waiting.pop()  # it belongs to a stop string
        if self._waiting:
            events.append(self._event({"content": ""}))
        return b"".join(events)

    def _events(self, parts: list[Part]) -> list[bytes]:
        return [self._event(delta) for part in merged(parts) if (delta := self._delta(part))]

    def _delta(self, part: Part) -> dict[str, object]:
        if part.kind == "content":
            return {"content": part.text}
        if part.kind == "reasoning":
            return {"reasoning_content": part.text}
        if part.kind == "call":
            self.calls += 1
            call: dict[str, object] = {
                "index": self.calls - 1,
                "id": new_call_id(),
                "type": "function",
                "function": {"name": part.text, "arguments": ""},
            }
        else:
            call = {"index": self.calls - 1, "function": {"arguments": part.text}}
        return {"tool_calls": [call]}

    def _event(self, delta: dict[str, object]) -> bytes:
        """One event, with the log probabilities that wait for one."""
        waiting, self._waiting = self._waiting, []
        return self._answer.delta_event(self._index, delta, self._answer.logprobs(waiting) if waiting else None)


class Gathered:
    """Collects the parts of a choice that is not streamed."""

    def __init__(self, reading: Reading) -> None:
        self._reader = reading.reader()
        self._texts: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._calls: list[tuple[str, list[str]]] = []

    def add(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if delta.text:
                self._take(self._reader.push(delta.text))

    def whole(self) -> Said:
        self._take(self._reader.finish())
        calls = [CalledTool(new_call_id(), name, "".join(arguments)) for name, arguments in self._calls]
        return Said("".join(self._texts["content"]), "".join(self._texts["reasoning"]), calls)

    def _take(self, parts: list[Part]) -> None:
        for kind, text in parts:
            if kind == "call":
                self._calls.append((text, []))
            elif kind == "arguments":
                self._calls[-1][1].append(text)
            else:
                self._texts[kind].append(text)


def new_call_id() -> str:
    """The id of a call, by which the client says what its result answers."""
    return f"call_{secrets.token_hex(12)}"


def merged(parts: list[Part]) -> list[Part]:
    """Parts with neighbours of one kind joined; calls stay apart."""
    found: list[Part] = []
    for part in parts:
        if found and found[-1].kind == part.kind != "call":
            found[-1] = Part(part.kind, found[-1].text + part.text)
        else:
            found.append(part)
    return found
