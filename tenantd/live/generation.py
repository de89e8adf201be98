"""One answer to generate, and the sampling settings that all answers to a request share."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Literal

import msgspec

from tenantd.domain import SEED_VALUES, Sampling
from tenantd.text.detokenize import TextStream
from tenantd.text.image_parts import Placed
from tenantd.text.reading import Reading
from tenantd.text.stops import StopStrings
from tenantd.text.vocabulary import Vocabulary
from tenantd.wire.messages import SetSampling


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to generate. `max_tokens` None means the configured default; `choice` numbers the answers to a
    prompt. With `texts` there is nothing to generate: its prompt is texts of these lengths, to be embedded."""

    kind: Literal["completion", "chat", "embedding"]
    prompt: list[int]
    images: tuple[Placed, ...] = ()  # in it
    texts: tuple[int, ...] = ()
    texts_field: str = "input"  # of the client's request
    hidden_tokens: int = 0  # of it, up to the end of its tenant's system prompt
    marks: tuple[int, ...] = ()  # where turns end in it: how many tokens are before
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    stops: StopStrings | tuple[str, ...] = ()
    choice: int = 0
    choices: int = 1  # to its prompt
    is_flex: bool = False  # in the background: its tenant's other requests go first
    client_id: str = ""  # the client's own id for its request
    system_prompt_hmac: str | None = None  # of the system prompt that its prompt begins with, if it does
    reading: Reading | None = None  # how its answer is read; None if that is only text

    @property
    def counts_prompt(self) -> bool:
        """Whether its prompt is billed and counts towards tokens per minute: only once per prompt."""
        return self.choice == 0

    def text_stream(self, vocabulary: Vocabulary) -> TextStream:
        """Turns its tokens into text."""
        if self.reading is None:
            return TextStream(vocabulary, self.stops)
        return self.reading.text_stream(vocabulary, self.stops)

    def seed(self) -> int:
        """The seed of this choice: the request's seed plus the choice's number, or a random one.

        Drawn here, so that the request continues with the same seed after a crash of the engine.
        """
        if self.sampling.seed is None:
            return secrets.randbelow(SEED_VALUES)
        return (self.sampling.seed + self.choice) % SEED_VALUES


def counted_prompt_tokens(generations: Iterable[Generation]) -> int:
    """Prompt tokens of a client's request, counting each prompt once."""
    return sum(len(generation.prompt) for generation in generations if generation.counts_prompt)


class SharedSampling:
    """Sampling settings of a client's request, sent to the engine once instead of for each prompt and choice."""

    def __init__(self, number: int, sampling: Sampling) -> None:
        """`number` identifies the settings in the engine's protocol."""
        self.number = number
        self.sampling = sampling
        self.users = 0  # live requests that have it
        self.is_in_engine = False

    def command(self) -> SetSampling:
        """The command that sends the settings to an engine."""
        return SetSampling(self.number, self.sampling)
