"""Logprobs of an answer as JSON: event by event, or gathered for an answer that is not streamed.

The log probability of a token whose text is held back waits for the text.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tenantd.api.openai.answers import Answer, encode_json
from tenantd.live.streams import Delta


class LogprobEvents:
    """Builds events with logprobs. A token waits here while its text is held back."""

    def __init__(self, answer: Answer, index: int) -> None:
        self._answer = answer
        self._index = index
        self._characters = 0
        self.waiting: list[Delta] = []

    def take(self, deltas: list[Delta]) -> bytes:
        """Add tokens and return the events that are now complete."""
        events: list[bytes] = []
        for delta in deltas:
            self.waiting.append(delta)
            if delta.text:
                events.append(self._event())
        return b"".join(events)

    def _event(self) -> bytes:
        """One event for all waiting tokens."""
        event = self._answer.logprobs_event(self._index, self.waiting, self._characters)
        self._characters += sum(len(delta.text) for delta in self.waiting)
        self.waiting = []
        return event


class GatheredLogprobs:
    """Collects an answer's logprobs. Each list is kept as the JSON of its elements so far, without the brackets."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._waiting: list[
            Delta
        ] = []  # tokens without text yet; dropped if none follows, since they belong to a stop string
        self._characters = 0
        self._lists: dict[str, list[bytes]] = {}
        self._others: dict[str, Any] = {}

    def add(self, deltas: list[Delta]) -> None:
        if deltas[0].logprobs is None and not self._waiting:
            self._characters += sum(len(delta.text) for delta in deltas)
            return
        self._waiting += deltas
        end = len(self._waiting)
        while end and not self._waiting[end - 1].text:
            end -= 1
        shown, self._waiting = self._waiting[:end], self._waiting[end:]
        for name, value in (self._answer.logprobs(shown, self._characters) or {}).items():
            if isinstance(value, list):
                self._lists.setdefault(name, []).append(encode_json(value)[1:-1])
            else:
                self._others[name] = value
        self._characters += sum(len(delta.text) for delta in shown)

    def whole(self) -> msgspec.Raw | None:
        if not self._lists:
            return None
        parts = {name: msgspec.Raw(b"[" + b",".join(pieces) + b"]") for name, pieces in self._lists.items()}
        return msgspec.Raw(encode_json({**parts, **self._others}))
