"""Whose each sequence of a llama.cpp context is, what it holds, and how that is moved, kept and given back.

A sequence is used only in the name of its owner, and a new owner gets one that is nobody's and empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tenantd.engine.compute import Chunk, EngineBroken, Kept, Owner, Parked, Swapped
from tenantd.engine.llama.adapters import Version
from tenantd.engine.llama.cells import Cells
from tenantd.engine.llama.locked import LockedMemory
from tenantd.engine.llama.sampling import Sampler


class Sequences:
    """The part of `engine.compute.Compute` that computes nothing."""

    def __init__(self, cells: Cells, slots: int) -> None:
        self._cells = cells
        self._requests: list[int | None] = [None] * slots  # whose each bound sequence is
        self._prefixes = [0] * slots  # what each parked sequence holds; 0 for others
        self._samplers: list[Sampler | None] = [None] * slots
        self._versions: list[Version | None] = [None] * slots  # adapter version of each owned sequence
        self._garbled: set[int] = set()  # sequences for which the model returned NaN or infinity

    # ---- requests ---------------------------------------------------------------------------------------------

    def move(self, source: int, target: int) -> None:
        self._check_unbound(target)
        self._cells.move(source, target)
        self._requests[target], self._requests[source] = self._requests[source], None
        self._prefixes[target], self._prefixes[source] = self._prefixes[source], 0
        self._samplers[target], self._samplers[source] = self._samplers[source], None
        self._versions[target], self._versions[source] = self._versions[source], None

    def clear(self, sequence: int) -> None:
        was_garbled = sequence in self._garbled
        self._cells.clear(sequence, is_garbled=was_garbled)
        self._garbled.discard(sequence)
        if was_garbled and not self._garbled:
            self._cells.overwrite_pool()  # once, when the last of them is cleared, and on its account
        self._requests[sequence] = self._versions[sequence] = None
        self._prefixes[sequence] = 0
        if (sampler := self._samplers[sequence]) is not None:
            sampler.free()
            self._samplers[sequence] = None

    def swap_out(self, sequence: int, room_bytes: int) -> LlamaSwapped:
        request, sampler = self._requests[sequence], self._samplers[sequence]
        if request is None or sampler is None:
            raise EngineBroken(f"sequence {sequence} was to be swapped out and is not bound")
        length = self._cells.length(sequence)
        state = self._cells.save(sequence, room_bytes) if length else None
        swapped = LlamaSwapped(request, sampler, state, length, self._versions[sequence])
        self._samplers[sequence] = None  # kept with the state, so that clearing does not free it
        self.clear(sequence)
        return swapped

    def swap_in(self, sequence: int, swapped: Swapped, request: int = 0) -> bool:
        assert isinstance(swapped, LlamaSwapped)
        if swapped.request != request:
            raise EngineBroken(f"the state of request {swapped.request} was to be restored for request {request}")
        self._check_unbound(sequence)
        self._requests[sequence] = request
        self._samplers[sequence] = swapped.sampler
        self._versions[sequence] = swapped.version
        if swapped.state is None:
            return swapped.length == 0
        is_restored = self._cells.restore(sequence, swapped.state, swapped.length)
        swapped.state.wipe()
        return is_restored

    # ---- prefixes ---------------------------------------------------------------------------------------------

    def park(self, sequence: int, request: int, prefix: int) -> Parked:
        self._check_owner(sequence, Owner("request", request))
        if not self._cells.length(sequence):
            raise EngineBroken(f"sequence {sequence} was to be parked and is empty")
        if (sampler := self._samplers[sequence]) is not None:
            sampler.free()
        self._samplers[sequence] = self._requests[sequence] = None
        self._prefixes[sequence] = prefix
        return Parked(self._cells.size_bytes(sequence), self._cells.least_tokens(sequence))

    def cut(self, sequence: int, prefix: int, tokens: int) -> bool:
        self._check_owner(sequence, Owner("prefix", prefix))
        if self._cells.cut(sequence, tokens):
            return True
        self.clear(sequence)
        return False

    def copy(self, source: int, target: int, owner: Owner, prefix: int, tokens: int) -> bool:
        self._check_owner(source, owner)
        self._check_unbound(target)
        if is_copied := self._cells.copy(source, target, tokens):
            self._prefixes[target], self._versions[target] = prefix, self._versions[source]
        return is_copied

    def save(self, sequence: int, owner: Owner, prefix: int, room_bytes: int) -> LlamaKept | None:
        self._check_owner(sequence, owner)
        if not (length := self._cells.length(sequence)):
            raise EngineBroken(f"sequence {sequence} was to be saved and is empty")
        if (state := self._cells.save(sequence, room_bytes)) is None:
            return None
        return LlamaKept(prefix, length, self._cells.least_tokens_saved(sequence), state, self._versions[sequence])

    def restore(self, sequence: int, kept: Kept) -> bool:
        assert isinstance(kept, LlamaKept)
        self._check_unbound(sequence)
        if is_restored := self._cells.restore(sequence, kept.state, kept.tokens):
            self._prefixes[sequence], self._versions[sequence] = kept.prefix, kept.version
        return is_restored

    def holds_only(self, parked: Mapping[int, int]) -> bool:
        are_parked = all(prefix == parked.get(sequence, 0) for sequence, prefix in enumerate(self._prefixes))
        are_unbound = all(sampler is None for sampler in self._samplers)
        return are_unbound and are_parked and self._cells.only_in(parked.keys())

    def is_empty(self) -> bool:
        return self.holds_only({})

    def _free_samplers(self) -> None:
        for sampler in self._samplers:
            if sampler is not None:
                sampler.free()

    # ---- checks -----------------------------------------------------------------------------------------------

    def _check(self, chunks: list[Chunk]) -> None:
        """Check that each sequence is its chunk's request's, and holds exactly the tokens before the chunk."""
        for sequence, position, _, _, request, *_ in chunks:
            self._check_request(sequence, request)
            if (length := self._cells.length(sequence)) != position:
                raise EngineBroken(f"sequence {sequence} holds {length} tokens, not {position}")

    def _check_request(self, sequence: int, request: int) -> None:
        """Raises EngineBroken if it is not bound to this request."""
        if self._requests[sequence] != request:
            raise EngineBroken(f"sequence {sequence} belongs to request {self._requests[sequence]}, not {request}")

    def _check_owner(self, sequence: int, owner: Owner) -> None:
        """Raises EngineBroken if it belongs to another, or to nobody."""
        own = self._requests[sequence] if owner.kind == "request" else self._prefixes[sequence] or None
        if own != owner.number:
            raise EngineBroken(f"sequence {sequence} does not belong to {owner}")

    def _check_unbound(self, sequence: int) -> None:
        if self._samplers[sequence] is not None:
            raise EngineBroken(f"sequence {sequence} already belongs to request {self._requests[sequence]}")
        self._cells.check_empty(sequence)


@dataclass(slots=True)
class LlamaSwapped:
    """A request's sampler, and the state of its sequence in host memory, unless there was no room or nothing to
    keep."""

    request: int
    sampler: Sampler
    state: LockedMemory | None
    length: int  # tokens computed
    version: Version | None  # of its adapter

    @property
    def size_bytes(self) -> int:
        return 0 if self.state is None else self.state.size_bytes

    def free(self) -> None:
        if self.state is not None:
            self.state.wipe()
        self.sampler.free()


@dataclass(frozen=True, slots=True)
class LlamaKept:
    """A prefix in host memory."""

    prefix: int
    tokens: int
    least_tokens: int
    state: LockedMemory
    version: Version | None  # of its adapter

    @property
    def size_bytes(self) -> int:
        return self.state.size_bytes

    def free(self) -> None:
        self.state.wipe()
