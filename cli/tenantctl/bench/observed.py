"""What is recorded about each request while it runs. Times are seconds since the start of the run."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

RECENT_ANSWERS = 64

Clock = Callable[[], float]


class Outcome(StrEnum):
    """State of a request: how far it is, or how it ended."""

    WAITING = "waiting"  # no token yet
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"  # HTTP 429 or 503: try again later
    FAILED = "failed"
    CUT = "cut"  # the run ended first


@dataclass
class Tally:
    """Counts of one tenant, kept up to date for the live view."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    prompt_tokens: int = 0
    output_tokens: int = 0
    recent_ttft_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_ANSWERS))


@dataclass
class Record:
    """One request. `write_times_s` and `write_tokens` tell how many tokens arrived when: one entry for each chunk of
    the body with tokens, so tokens that the server or the network joined share a time.

    `prompt_tokens` and `output_tokens` are as requested until the server has reported its own counts.
    """

    tenant: str
    prompt_tokens: int = 0
    max_tokens: int = 0
    sent_s: float = 0.0
    first_s: float | None = None
    done_s: float | None = None
    output_tokens: int = 0
    status: int = 0
    outcome: Outcome = Outcome.WAITING
    message: str = ""
    retry_after_s: float | None = None
    write_times_s: array[float] = field(default_factory=lambda: array("d"), repr=False)
    write_tokens: array[int] = field(default_factory=lambda: array("q"), repr=False)
    tally: Tally = field(default_factory=Tally, repr=False, compare=False)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_s is None else self.first_s - self.sent_s

    @property
    def arrived_tokens(self) -> int:
        """Number of tokens whose text arrived."""
        return sum(self.write_tokens)

    @property
    def is_short(self) -> bool:
        """Whether it is complete with fewer tokens than requested, because the server ends texts early."""
        return self.outcome is Outcome.DONE and self.output_tokens < self.max_tokens

    def begin(self, now_s: float) -> None:
        """Record that it was sent."""
        self.sent_s = now_s
        self.tally.outcomes[self.outcome] += 1

    def add_tokens(self, now_s: float, tokens: int) -> None:
        """Record that tokens arrived."""
        if self.first_s is None:
            self.first_s = now_s
            self._become(Outcome.RUNNING)
            self.tally.prompt_tokens += self.prompt_tokens
            self.tally.recent_ttft_s.append(now_s - self.sent_s)
        self.write_times_s.append(now_s)
        self.write_tokens.append(tokens)
        self.tally.output_tokens += tokens

    def end(self, now_s: float, outcome: Outcome, message: str = "") -> None:
        """Record its end. Only the first end counts."""
        if self.done_s is None:
            self.done_s = now_s
            self.message = message
            self._become(outcome)
            if outcome is not Outcome.DONE or not self.output_tokens:
                self.output_tokens = self.arrived_tokens

    def _become(self, outcome: Outcome) -> None:
        self.tally.outcomes[self.outcome] -= 1
        self.tally.outcomes[outcome] += 1
        self.outcome = outcome
