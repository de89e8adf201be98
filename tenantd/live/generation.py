"""What a client wants generated, and what all of one request's answers share."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Literal

import msgspec

from tenantd.domain import SEED_VALUES, Sampling
from tenantd.text.stops import StopStrings
from tenantd.wire.messages import SetSampling


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `max_tokens` None takes the configured default; `choice` counts the answers to one prompt."""

    kind: Literal["completion", "chat"]
    prompt: list[int]
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    stops: StopStrings | tuple[str, ...] = ()
    choice: int = 0

    @property
    def counts_prompt(self) -> bool:
        """Its prompt is billed, and counted towards tokens per minute: once, however many choices it has."""
        return self.choice == 0

    def seed(self) -> int:
        """Of this choice: the request's own and its number, or one drawn now.

        Drawn here, so that after a crash of the engine the request goes on with the same one.
        """
        if self.sampling.seed is None:
            return secrets.randbelow(SEED_VALUES)
        return (self.sampling.seed + self.choice) % SEED_VALUES


def counted_prompt_tokens(generations: Iterable[Generation]) -> int:
    """Of one client's request: each prompt once."""
    return sum(len(generation.prompt) for generation in generations if generation.counts_prompt)


class SharedSampling:
    """Sampling settings of a client's request. The engine is told them once, not for each prompt and choice."""

    def __init__(self, number: int, sampling: Sampling) -> None:
        """`number` is its name in the engine's protocol."""
        self.number = number
        self.sampling = sampling
        self.users = 0  # live requests that have it
        self.is_in_engine = False

    def command(self) -> SetSampling:
        """What tells an engine."""
        return SetSampling(self.number, self.sampling)
