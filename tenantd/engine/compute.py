"""What the scheduler asks of an engine, and what an engine answers: the seam between deciding and computing.

`llama.py` computes with llama.cpp, `fake.py` without a model; tests/contract holds both to this page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tenantd.domain import Sampling, TokenLogprobs
from tenantd.wire.messages import EngineInfo


class RequestRejected(Exception):
    """This request cannot be run by this engine (an adapter that does not fit, say); others are untouched.

    `param` is the field of the request that is to blame, "" if none is; `micros` the engine time it took to find out.
    The message is for the tenant, `detail` for the daemon's log.
    """

    def __init__(self, message: str, *, param: str = "", micros: int = 0, detail: str = "") -> None:
        super().__init__(message)
        self.param = param
        self.detail = detail
        self.micros = micros


class EngineBroken(Exception):
    """The engine's state can no longer be trusted; the process must end and be started again."""


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence for one forward pass. `sample`: choose the token after the last one."""

    sequence: int
    position: int  # of the first token
    tokens: list[int]
    sample: bool


class Sampled(NamedTuple):
    """The outcome of one chunk with `sample`. `failed` says why there is no token for it (empty: there is one)."""

    token: int
    is_end: bool  # an end-of-generation token: not part of the text
    logprobs: TokenLogprobs | None = None
    failed: str = ""
    param: str = ""  # of a failure that is the request's own fault: the field to blame
    grammar_micros: int = 0  # what its grammar took, on top of what any token takes


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass gave: its engine time, and by sequence the token of every chunk with `sample`.

    A chunk without `sample` is in `sampled` only when it failed. `micros` is the time of all together, `own_micros` by
    sequence what only one of them needed (sampling, its grammar), which is not in `micros`.
    """

    sampled: dict[int, Sampled]
    micros: int
    own_micros: dict[int, int] = field(default_factory=dict)

    @property
    def busy_micros(self) -> int:
        """All of its engine time."""
        return self.micros + sum(self.own_micros.values())


class Swapped(Protocol):
    """A request that gave its sequence away: its sampler, and its KV state if that was kept."""

    @property
    def size_bytes(self) -> int:
        """Host memory of the state; 0 when it was not kept and has to be computed again."""

    def free(self) -> None:
        """For a request that ends while it is swapped out."""


class Compute(Protocol):
    """Sequences of tokens and their KV state. Sequence ids are 0 .. info.slots-1; none is bound at first."""

    info: EngineInfo

    def bind(
        self, sequence: int, sampling: Sampling, history: list[int], generated: list[int], adapter: str = ""
    ) -> int:
        """Make an empty sequence ready for a request, as if `generated` had been sampled by it already.

        `history` is the prompt, for the penalties; `adapter` the path of a LoRA adapter to run it with, "" for none.
        Returns the engine time it took, in microseconds. Raises RequestRejected and leaves the sequence unbound.
        """

    def run(self, chunks: list[Chunk]) -> PassResult:
        """One forward pass over bound sequences of one adapter, each at most once, in ascending order of id.

        Raises EngineBroken. A chunk that alone cannot be done is answered with `failed`.
        """

    def move(self, source: int, target: int) -> None:
        """Move a bound sequence, with its sampler, to an unbound one."""

    def clear(self, sequence: int) -> None:
        """Unbind; nothing of it remains in the KV cache, which is checked. Raises EngineBroken."""

    def swap_out(self, sequence: int, room_bytes: int) -> Swapped:
        """Take a request off its sequence, which is unbound and empty after.

        Its state is kept if it fits `room_bytes`.
        """

    def swap_in(self, sequence: int, swapped: Swapped) -> bool:
        """Put it on an empty sequence. True: it stands where it stood. False: its tokens are to be computed again."""

    def is_empty(self) -> bool:
        """True when no sequence is bound and the KV cache holds nothing."""

    def close(self) -> None:
        """Free everything."""
