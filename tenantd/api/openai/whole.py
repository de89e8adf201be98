"""Collects one choice of an answer that is not streamed.

Logprobs are encoded as JSON while tokens arrive. Twenty alternatives for each of some thousand tokens take seconds, and
encoding them all at the end would block the event loop for that long.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tenantd.api.openai.answers import Answer
from tenantd.api.openai.logprobs import GatheredLogprobs
from tenantd.live.streams import LiveStream


class Whole(NamedTuple):
    """The text and logprobs of one choice. `logprobs` is None if they were not requested."""

    text: str
    logprobs: msgspec.Raw | None


async def collect(answer: Answer, stream: LiveStream) -> Whole:
    """Collect everything until the stream is settled."""
    texts: list[str] = []
    logprobs = GatheredLogprobs(answer)
    while deltas := await stream.take():
        texts += [delta.text for delta in deltas]
        logprobs.add(deltas)
    return Whole("".join(texts), logprobs.whole())
