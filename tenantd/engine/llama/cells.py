"""The KV cells of sequences: counted, moved, saved, restored, cleared and overwritten.

llama.cpp frees cells by forgetting whose they are; their bytes stay until other tokens replace them. With `scrub` they
are overwritten, in one of two ways, because its API cannot address single cells:

- With KV streams, one more stream is kept, which no request ever uses. Copying it whole onto another overwrites every
  cell there, wherever it is.
- With one pool for all sequences, and for models with a recurrent state, the states of all running sequences are taken
  out, the whole cache is zeroed, and they are put back.

llama.cpp makes a copy between streams no earlier than in the next llama_decode, and saves and restores states at once
(llama-kv-cache.cpp, `seq_cp`, `update`). So a pass of one token makes pending copies before anything is saved or
restored: else a state would be what an earlier request left, or what is restored would be overwritten.
"""

from __future__ import annotations

from typing import Any, Final

import llama_cpp

from tenantd.engine.compute import Chunk, EngineBroken
from tenantd.engine.llama.batch import Batch
from tenantd.engine.llama.locked import LockedMemory

SOME_TOKEN: Final = 0
"""What an empty sequence computes, and forgets, to make llama.cpp do its pending copies; the same for everybody."""


class Cells:
    """The cells of one context. `spare` is the sequence of the stream that no request uses, None if there is none."""

    def __init__(self, context: Any, slots: int, *, scrub: bool, spare: int | None) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._slots = slots
        self._scrub = scrub
        self._spare = spare
        self._has_pending_copies = False
        self._is_dirty = False  # the pool has cells to overwrite

    def length(self, sequence: int) -> int:
        """How many tokens it holds, those that left a sliding window included."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def check_empty(self, sequence: int) -> None:
        """Raises EngineBroken if it holds anything."""
        if self.length(sequence):
            raise EngineBroken(f"sequence {sequence} is not empty")

    def move(self, source: int, target: int) -> None:
        """Move all cells to an empty sequence. Raises EngineBroken."""
        self.check_empty(target)
        self.overwrite_pool()
        length = self.length(source)
        if length:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self._has_pending_copies = True
            llama_cpp.llama_memory_seq_rm(self._memory, source, -1, -1)
            if self._spare is not None:
                llama_cpp.llama_memory_seq_cp(self._memory, self._spare, source, -1, -1)
        if self.length(target) != length or self.length(source):
            raise EngineBroken(f"sequence {source} was not moved completely to {target}")

    def clear(self, sequence: int) -> None:
        """Free all cells, to be overwritten before anything else is computed or restored. Raises EngineBroken."""
        held = self.length(sequence)
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        if held and self._spare is not None:
            llama_cpp.llama_memory_seq_cp(self._memory, self._spare, sequence, -1, -1)
            self._has_pending_copies = True
        elif held and self._scrub:
            self._is_dirty = True
        if self.length(sequence):
            raise EngineBroken(f"sequence {sequence} still holds tokens after it was cleared")

    def save(self, sequence: int, room_bytes: int) -> LockedMemory | None:
        """A copy of its state, if there is room. Raises EngineBroken."""
        self._settle()
        size_bytes = int(llama_cpp.llama_state_seq_get_size(self._context, sequence))
        if size_bytes > room_bytes:
            return None
        try:
            state = LockedMemory(size_bytes)
        except OSError:
            return None  # memory is short
        if llama_cpp.llama_state_seq_get_data(self._context, state.pointer, size_bytes, sequence) != size_bytes:
            raise EngineBroken(f"the state of sequence {sequence} could not be saved")
        return state

    def restore(self, sequence: int, state: LockedMemory, length: int) -> bool:
        """Put a state of this length into an empty sequence, and wipe it. False if it does not fit; then the sequence
        stays empty. Raises EngineBroken."""
        self.check_empty(sequence)
        self.overwrite_pool()
        self._settle()
        read = llama_cpp.llama_state_seq_set_data(self._context, state.pointer, state.size_bytes, sequence)
        state.wipe()
        if not read:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)  # it may leave parts behind
        if (now := self.length(sequence)) != (length if read else 0):
            raise EngineBroken(f"sequence {sequence} was restored to {now} tokens instead of {length}")
        return bool(read)

    def decode(self, batch: Batch) -> int:
        """llama_decode: 0 done, 1 no room, others are errors."""
        self.overwrite_pool()
        code = int(llama_cpp.llama_decode(self._context, batch.struct))
        if code >= 0:
            self._has_pending_copies = False
        return code

    def are_empty(self) -> bool:
        """Whether no sequence holds anything. With `scrub`, everything is overwritten then."""
        self.overwrite_pool()
        if self._scrub:
            self._settle()
        return not any(map(self.length, range(self._slots)))

    def overwrite_pool(self) -> None:
        """Overwrite what was freed, if there is no spare stream for that. Raises EngineBroken."""
        if not self._is_dirty:
            return
        self._is_dirty = False
        lengths = {sequence: length for sequence in range(self._slots) if (length := self.length(sequence))}
        states = {sequence: self.save(sequence, 1 << 62) for sequence in lengths}
        llama_cpp.llama_memory_clear(self._memory, True)
        for sequence, state in states.items():
            if state is None:
                raise EngineBroken(f"no memory to keep sequence {sequence} while freed cells are overwritten")
            if not self.restore(sequence, state, lengths[sequence]):
                raise EngineBroken(f"sequence {sequence} was lost while freed cells were overwritten")

    def _settle(self) -> None:
        """Make llama.cpp do its pending copies now. Raises EngineBroken."""
        if not self._has_pending_copies:
            return
        empty = self._spare
        if empty is None:  # what was moved last has left one
            empty = next(sequence for sequence in range(self._slots) if not self.length(sequence))
        batch = Batch(1)
        batch.fill([Chunk(empty, 0, [SOME_TOKEN], False)])
        if (code := self.decode(batch)) != 0:
            raise EngineBroken(f"llama_decode failed with {code} in an empty sequence")
        llama_cpp.llama_memory_seq_rm(self._memory, empty, -1, -1)
