"""Collects one choice of an answer that is not streamed.

Logprobs are encoded as JSON while tokens arrive. Twenty alternatives for each of some thousand tokens take seconds, and
encoding them all at the end would block the event loop for that long.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tenantd.api.openai.answers import Answer, Said
from tenantd.api.openai.logprobs import GatheredLogprobs
from tenantd.api.openai.parted import Gathered
from tenantd.live.streams import LiveStream
from tenantd.text.reading import Reading


class Whole(NamedTuple):
    """The text and logprobs of one choice. `logprobs` is None if they were not requested. `said` is what the text
    consists of, if it is more than content."""

    text: str
    logprobs: msgspec.Raw | None
    said: Said | None = None


async def collect(answer: Answer, stream: LiveStream, reading: Reading | None = None) -> Whole:
    """Collect everything until the stream is settled."""
    texts: list[str] = []
    logprobs = GatheredLogprobs(answer)
    gathered = None if reading is None else Gathered(reading)
    while deltas := await stream.take():
        if gathered is None:
            texts += [delta.text for delta in deltas]
        else:
            gathered.add(deltas)
        logprobs.add(deltas)
    return Whole("".join(texts), logprobs.whole(), None if gathered is None else gathered.whole())
