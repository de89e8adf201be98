"""Collects one choice of an answer that is not streamed.

Logprobs are encoded as JSON while tokens arrive. Twenty alternatives for each of some thousand tokens take seconds, and
encoding them all at the end would block the event loop for that long.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from tenantd.api.openai.answers import Answer, encode_json
from tenantd.live.streams import Delta, LiveStream


class Whole(NamedTuple):
    """The text and logprobs of one choice. `logprobs` is None if they were not requested."""

    text: str
    logprobs: msgspec.Raw | None


async def collect(answer: Answer, stream: LiveStream) -> Whole:
    """Collect everything until the stream is settled."""
    texts: list[str] = []
    logprobs = _Logprobs(answer)
    while deltas := await stream.take():
        texts += [delta.text for delta in deltas]
        logprobs.add(deltas)
    return Whole("".join(texts), logprobs.whole())


class _Logprobs:
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
