"""The interface between the scheduler, which decides, and an engine, which computes.

`llama/` computes with llama.cpp, `fake.py` without a model; tests/contract tests both against this interface.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from tenantd.domain import Sampling, TokenLogprobs
from tenantd.wire.messages import EngineInfo, PlacedImage


class RequestRejected(Exception):
    """The engine cannot run this request (for example, its adapter does not fit); others are not affected.

    `param` names the field at fault, "" if none; `micros` is the engine time it took to find out.
    The message is for the tenant, `detail` for the daemon's log.
    """

    def __init__(self, message: str, *, param: str = "", micros: int = 0, detail: str = "") -> None:
        super().__init__(message)
        self.param = param
        self.detail = detail
        self.micros = micros


class EngineBroken(Exception):
    """The engine's state can no longer be trusted; the process must be restarted."""


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence in a forward pass. With `sample`, choose the token after the last one.

    `request` is the number of the request that they belong to, as in `bind`. With `texts`, they are whole texts of
    these lengths to embed: `position` is that in the request, nothing is left in the sequence, and all other chunks of
    the pass are of this kind. With `image`, they are all the tokens of this image, and the pass has no other chunk.
    """

    sequence: int
    position: int  # of the first token
    tokens: list[int]
    sample: bool
    request: int = 0
    texts: tuple[int, ...] = ()
    image: PlacedImage | None = None


class Sampled(NamedTuple):
    """The result of a chunk with `sample`. `failed` tells why there is no token; "" if there is one."""

    token: int
    is_end: bool  # an end-of-generation token: not part of the text
    logprobs: TokenLogprobs | None = None
    failed: str = ""
    param: str = ""  # the field at fault, if the request caused the failure
    grammar_micros: int = 0  # time of its grammar, in addition to that of any token
    is_garbled: bool = False  # it failed because the model returned NaN or infinity


@dataclass(frozen=True, slots=True)
class PassResult:
    """Result of a pass: its engine time, and by sequence the token of every chunk with `sample`.

    A chunk without `sample` appears in `sampled` only if it failed. `micros` is the shared time; `own_micros` is, by
    sequence, the additional time that only one of them needed (sampling, its grammar). `moving_micros` is what it took
    to make its sequences adjacent before; it is shared like the pass. `vectors` are by
    sequence those of the texts of its chunk, as in `Progress`. `image_micros` is the part of the time in which an image
    was turned into embeddings.
    """

    sampled: dict[int, Sampled]
    micros: int
    own_micros: dict[int, int] = field(default_factory=dict)
    moving_micros: int = 0
    vectors: dict[int, bytes] = field(default_factory=dict)
    image_micros: int = 0

    @property
    def shared_micros(self) -> int:
        """What all its sequences share."""
        return self.micros + self.moving_micros

    @property
    def busy_micros(self) -> int:
        """Total engine time of the pass."""
        return self.shared_micros + sum(self.own_micros.values())


class Swapped(Protocol):
    """A swapped-out request: its sampler, and its KV state if it was kept."""

    @property
    def request(self) -> int:
        """The number of the request that it belongs to."""

    @property
    def size_bytes(self) -> int:
        """Host memory of the state; 0 if it was not kept and must be recomputed."""

    def free(self) -> None:
        """Overwrite the state and free its memory, if the request ends while it is swapped out."""


class Owner(NamedTuple):
    """Whose a sequence is: the request's that is bound to it, or the prefix's that is parked in it."""

    kind: Literal["request", "prefix"]
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


def check_part(tokens: int, length: int) -> None:
    """Raises EngineBroken if `tokens` are not a part, or the whole, of a sequence of this length."""
    if not 0 < tokens <= length:
        raise EngineBroken(f"{tokens} tokens were asked for of a sequence of {length}")


class Parked(NamedTuple):
    """A prefix that stays in a sequence: computed tokens of a request that has ended, for later ones to begin with.

    `size_bytes` is the host memory that its state would take. `least_tokens` is the shortest length that it can be cut
    to: 0 for any length, its own if it cannot be cut at all.
    """

    size_bytes: int
    least_tokens: int


class Kept(Protocol):
    """The state of a prefix in host memory. Restoring it does not use it up."""

    @property
    def prefix(self) -> int:
        """The number of the prefix that it is."""

    @property
    def tokens(self) -> int:
        """Its length."""

    @property
    def size_bytes(self) -> int:
        """The host memory that it takes."""

    @property
    def least_tokens(self) -> int:
        """The shortest length that it can be cut to once it is restored; see `Parked`."""

    def free(self) -> None:
        """Overwrite the state and free its memory."""


OnLogits = Callable[[int, "memoryview[float]"], None]
"""Gets a sequence, and the 32-bit floats of shape (vocabulary,) from which its next token is chosen. They are only
valid during the call."""


OnPass = Callable[[], None]
"""Called in the thread that computes."""


def version_text(version: Hashable) -> str:
    """What tells this version of an adapter from others at its path: for llama.cpp the time of its last change in
    nanoseconds since 1970, its bytes and its inode, as "1795000000000000000-65536-42"."""
    return "-".join(str(part) for part in version[1:]) if isinstance(version, tuple) else str(version)


class Compute(Protocol):
    """Sequences of tokens and their KV state. Sequence ids are 0 to info.slots-1; none is bound at first.

    A sequence belongs to the request it was bound to, also where it is moved, and then to the prefix as which it was
    parked. Whatever is asked for another owner raises EngineBroken, and nothing is computed. Numbers of prefixes begin
    at 1. A prefix has no tenant here: whoever names its number may use it.

    `gpu_bus_ids` are the PCI bus ids of the GPUs that it computes on, as "0000:c1:00.0"; none if one of them has none.

    `on_logits`, if set, is called by `run` for every chunk with `sample`, before its token is chosen.

    `on_pass` is called by `run` before it computes without the interpreter, which others can use until it is done. Its
    own time counts as the pass's.

    `window_tokens`: a longer sequence can only be cut to what `least_tokens` says; 0 if that holds for all, None if any
    can be cut to any length.

    `is_faster_when_full`: a pass with one token of every sequence takes less time than of all but one.
    """

    info: EngineInfo
    gpu_bus_ids: Sequence[str]
    on_logits: OnLogits | None
    on_pass: OnPass
    window_tokens: int | None
    is_faster_when_full: bool

    def bind(
        self,
        sequence: int,
        sampling: Sampling,
        history: list[int],
        generated: list[int],
        adapter: str = "",
        request: int = 0,
        prefix: int = 0,
    ) -> int:
        """Prepare an empty sequence for a request, as if it had already sampled `generated`.

        `history` is what penalties may see of the prompt: none of a system prompt. `adapter` is the path of a LoRA
        adapter, "" for none; `request` is the number that chunks and states of this request carry. Returns the engine
        time in microseconds. Raises RequestRejected, which leaves the sequence unbound.

        With `prefix`, the sequence must be parked as that one, computed with that adapter. Its tokens become the first
        of the request, and it keeps the version of the adapter that they were computed with. If the request is
        rejected, the sequence stays parked.
        """

    def run(self, chunks: list[Chunk]) -> PassResult:
        """Run one forward pass over bound sequences of one adapter, each at most once, in ascending order.

        Checks first that each chunk belongs to the request of its sequence, and that the sequence holds exactly the
        tokens before it. Raises EngineBroken. A chunk that cannot be computed by itself gets `failed`.

        A pass over texts to embed may be several; each text is computed by itself, and nothing of it stays. A vector
        has the length 1.
        """

    def move(self, source: int, target: int) -> None:
        """Move a sequence, with its owner and its sampler, to an unbound one.

        Its cells may be copied as late as in the next `run`; a swap before that can take as long as a pass.
        """

    def clear(self, sequence: int) -> None:
        """Empty a sequence, bound or parked, and check that nothing of it remains in the KV cache. Raises EngineBroken.

        With `Load.scrub`, what it held is overwritten before anything else is computed or restored, and without it if a
        row was `is_garbled`.
        """

    def swap_out(self, sequence: int, room_bytes: int) -> Swapped:
        """Take a request off its sequence, which is then unbound and empty.

        Its state is kept if it fits `room_bytes`.
        """

    def swap_in(self, sequence: int, swapped: Swapped, request: int = 0) -> bool:
        """Put a request on an empty sequence. True if its state was restored, False if its tokens must be recomputed.

        The state must be that of `request`; it is used up and overwritten.
        """

    def adapter_version(self, adapter: str) -> Hashable:
        """The identity of this adapter's file as it is now; `()` for "". Another file at the same path is another
        version. Raises RequestRejected."""

    def park(self, sequence: int, request: int, prefix: int) -> Parked:
        """End the binding of a request, and leave what was computed in the sequence as this prefix.

        The sequence must hold tokens.
        """

    def cut(self, sequence: int, prefix: int, tokens: int) -> bool:
        """Shorten a parked sequence to its first `tokens`, 1 to its length.

        False if that is impossible, which `least_tokens` may not foretell in a pool with sliding windows: others use
        cells that have left a window. Then the sequence is cleared. With `Load.scrub`, what was cut away is overwritten
        before anything else is computed or restored.
        """

    def copy(self, source: int, target: int, owner: Owner, prefix: int, tokens: int) -> bool:
        """Park the first `tokens` of a sequence, which stays as it is, in an empty one as this prefix.

        False if that is impossible; then the target stays empty. Like a move, a copy may be made as late as in the
        next `run`.
        """

    def save(self, sequence: int, owner: Owner, prefix: int, room_bytes: int) -> Kept | None:
        """Copy the state of a sequence, which stays as it is, to host memory as this prefix. None if it does not fit
        `room_bytes` or memory is short. The sequence must hold tokens."""

    def restore(self, sequence: int, kept: Kept) -> bool:
        """Park a copy of a kept prefix, which stays kept, in an empty sequence. False if it cannot be restored there;
        then the sequence stays empty."""

    def holds_only(self, parked: Mapping[int, int]) -> bool:
        """Whether these sequences are parked as these prefixes, by sequence, and all others are unbound and empty."""

    def is_empty(self) -> bool:
        """Whether no sequence is bound or parked and the KV cache is empty."""

    def close(self) -> None:
        """Free everything."""
