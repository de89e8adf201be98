"""The KV cells of sequences: counted, moved, copied, cut, saved, restored, cleared and overwritten.

llama.cpp frees cells by forgetting whose they are; their bytes stay until other tokens replace them. With `scrub` they
are overwritten, in one of two ways, because its API cannot address single cells:

- With KV streams, one more stream is kept, which no request ever uses. Copying it whole onto another overwrites every
  cell there, wherever it is.
- With one pool for all sequences, and for models with a recurrent state, the states of all running sequences are taken
  out, the whole cache is zeroed, and they are put back.

llama.cpp makes a copy between streams no earlier than in the next llama_decode, and saves and restores states at once
(llama-kv-cache.cpp, `seq_cp`, `update`). So a pass of one token makes pending copies before anything is saved or
restored: else a state would be what an earlier request left, or what is restored would be overwritten.

What a sequence can be cut to depends on the model. Layers with a sliding window keep little beyond it, and llama.cpp
answers true where it removes tokens and leaves the next one without what it looks back at; a recurrent state has no
earlier versions (llama-kv-cache.cpp, llama-memory-recurrent.cpp, `seq_rm`). So the oldest position left decides.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Final

import llama_cpp

from tenantd.engine.compute import Chunk, EngineBroken, check_part
from tenantd.engine.llama.batch import Batch, ImageBatch
from tenantd.engine.llama.locked import LockedMemory

SOME_TOKEN: Final = 0
"""What a sequence, an empty one if there is any, computes and forgets to make llama.cpp do its pending copies; the same
for everybody."""
SHORT_PART: Final = 16
"""Up to this part of a stream, saving and restoring is quicker than copying all of it: on a CPU it takes 1 to 3 ms for
each MiB, a copy of a stream 0.2 to 0.3."""


@dataclass(frozen=True, slots=True)
class Memory:
    """How a model remembers. `window_tokens`: of its sliding window, 0 if it has none."""

    is_unified: bool
    window_tokens: int
    has_recurrent_state: bool
    is_on_device: bool = False

    @property
    def cuts_tokens(self) -> int | None:
        """The longest sequence that can be cut to any length; None if there is no limit."""
        return 0 if self.has_recurrent_state else self.window_tokens or None

    @property
    def shares_cells(self) -> bool:
        """Whether a copy in the pool takes no cells. With a window, shared ones could not be used again by either
        sequence, and the pool has no others for them."""
        return self.is_unified and not self.window_tokens and not self.has_recurrent_state

    @property
    def copies_streams(self) -> bool:
        return not self.is_unified and not self.has_recurrent_state

    @property
    def restores_quickly(self) -> bool:
        """Whether a restored state is exact, and short ones are quicker than a copy of a stream. A device copies its
        own memory faster than it sends any of it to the host."""
        return self.copies_streams and not self.window_tokens and not self.is_on_device


class Cells:
    """The cells of one context. `spare` is the sequence of the stream that no request uses, None if there is none."""

    def __init__(self, context: Any, slots: int, memory: Memory, *, scrub: bool, spare: int | None) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._slots = slots
        self._kind = memory
        self._scrub = scrub
        self._spare = spare
        self._has_pending_copies = False
        self._is_dirty = False  # the pool has cells to overwrite

    def length(self, sequence: int) -> int:
        """How many tokens it holds, those that left a sliding window included."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def least_tokens(self, sequence: int) -> int:
        """The shortest length that it can be cut to, 0 for any: the next token must find all that it looks back at."""
        length = self.length(sequence)
        if self._kind.has_recurrent_state:
            return length
        first = int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence))
        if first <= 0:
            return 0
        return min(length, first + self._kind.window_tokens - 1) if self._kind.window_tokens else length

    def least_tokens_saved(self, sequence: int) -> int:
        """The same, once it was saved and restored: of a window, no more is saved than the last token looks back at
        (llama-kv-cache.cpp, `state_write`)."""
        length, window = self.length(sequence), self._kind.window_tokens
        return max(self.least_tokens(sequence), length - 1 if 0 < window < length else 0)

    def size_bytes(self, sequence: int) -> int:
        """The host memory that its state would take."""
        return int(llama_cpp.llama_state_seq_get_size(self._context, sequence))

    def check_empty(self, sequence: int) -> None:
        """Raises EngineBroken if it holds anything."""
        if self.length(sequence):
            raise EngineBroken(f"sequence {sequence} is not empty")

    def move(self, source: int, target: int) -> None:
        """Move all cells to an empty sequence. Raises EngineBroken."""
        self.check_empty(target)
        self.overwrite_pool()
        length = self.length(source)
        if length and self._is_short(length) and self._through_host(source, target):
            self.clear(source)
        elif length:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self._has_pending_copies = True
            llama_cpp.llama_memory_seq_rm(self._memory, source, -1, -1)
            if self._spare is not None:
                llama_cpp.llama_memory_seq_cp(self._memory, self._spare, source, -1, -1)
        if self.length(target) != length or self.length(source):
            raise EngineBroken(f"sequence {source} was not moved completely to {target}")

    def cut(self, sequence: int, tokens: int) -> bool:
        """Shorten it to its first tokens. If it cannot be, clear it and return False. Raises EngineBroken."""
        check_part(tokens, length := self.length(sequence))
        if tokens == length or (self._can_cut(sequence, tokens) and self._overwrite_tail(sequence)):
            return True
        self.clear(sequence)
        return False

    def _can_cut(self, sequence: int, tokens: int) -> bool:
        """Cut it, if enough is left. Checked on the cells that are left."""
        if self.least_tokens(sequence) > tokens:
            return False
        is_cut = llama_cpp.llama_memory_seq_rm(self._memory, sequence, tokens, -1)
        return is_cut and self.length(sequence) == tokens and self.least_tokens(sequence) <= tokens

    def _overwrite_tail(self, sequence: int) -> bool:
        """Have overwritten what was cut away. False if memory is short."""
        if self._spare is None:
            self._is_dirty = self._is_dirty or self._scrub
            return True
        return self._through_host(sequence, sequence)

    def copy(self, source: int, target: int, tokens: int) -> bool:
        """Copy its first tokens to an empty sequence. False if they cannot be; then the target stays empty.

        Raises EngineBroken.
        """
        self.check_empty(target)
        check_part(tokens, length := self.length(source))
        if tokens < length and tokens < self._least_tokens_copied(source):
            return False
        self.overwrite_pool()
        if self._kind.shares_cells:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, tokens)
            length = tokens
        elif self._is_short(length) and self._through_host(source, target):
            pass
        elif self._kind.copies_streams:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self._has_pending_copies = True
        elif not self._through_host(source, target):
            return False
        if self.length(target) != length:
            raise EngineBroken(f"sequence {source} was not copied completely to {target}")
        return self.cut(target, tokens)

    def _least_tokens_copied(self, sequence: int) -> int:
        is_whole = self._kind.shares_cells or self._kind.copies_streams
        return self.least_tokens(sequence) if is_whole else self.least_tokens_saved(sequence)

    def _is_short(self, length: int) -> bool:
        """Whether so many tokens get elsewhere sooner as a state: a copy of a stream copies its empty cells, too. With
        a spare stream, whole streams are copied anyway; copies that are pending would need a pass of their own."""
        fills_little = length * SHORT_PART <= int(llama_cpp.llama_n_ctx_seq(self._context))
        can_wait = self._spare is None and not self._has_pending_copies
        return fills_little and can_wait and self._kind.restores_quickly

    def _through_host(self, source: int, target: int) -> bool:
        """Restore its state in an empty sequence, or where it is, so that nothing but its own is there. False if
        there is no room."""
        length = self.length(source)
        if (state := self.save(source, 1 << 62)) is None:
            return False
        if source == target:
            self.clear(source)
        is_restored = self.restore(target, state, length)
        state.wipe()
        return is_restored

    def clear(self, sequence: int, *, is_garbled: bool = False) -> None:
        """Free all cells, to be overwritten before anything else is computed or restored. Raises EngineBroken.

        Those of a garbled sequence are overwritten with or without `scrub`: attention to free cells is weighed by 0,
        and a new recurrent state is the old one times 0, which a NaN outlives.
        """
        held = self.length(sequence)
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        if held and self._spare is not None:
            llama_cpp.llama_memory_seq_cp(self._memory, self._spare, sequence, -1, -1)
            self._has_pending_copies = True
        elif held and (self._scrub or is_garbled):
            self._is_dirty = True
        if self.length(sequence):
            raise EngineBroken(f"sequence {sequence} still holds tokens after it was cleared")

    def save(self, sequence: int, room_bytes: int) -> LockedMemory | None:
        """A copy of its state, if there is room. Raises EngineBroken."""
        self._settle()
        size_bytes = self.size_bytes(sequence)
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
        """Put a state of this length into an empty sequence. False if it does not fit; then the sequence stays empty.
        Raises EngineBroken."""
        self.check_empty(sequence)
        self.overwrite_pool()
        self._settle()
        read = llama_cpp.llama_state_seq_set_data(self._context, state.pointer, state.size_bytes, sequence)
        if not read:
            self.clear(sequence)  # cells may be taken, with nothing written to them
        if (now := self.length(sequence)) != (length if read else 0):
            raise EngineBroken(f"sequence {sequence} was restored to {now} tokens instead of {length}")
        return bool(read)

    def decode(self, batch: Batch | ImageBatch) -> int:
        """llama_decode: 0 done, 1 no room, others are errors."""
        self.overwrite_pool()
        code = int(llama_cpp.llama_decode(self._context, batch.struct))
        if code >= 0:
            self._has_pending_copies = False
        return code

    def only_in(self, sequences: Set[int]) -> bool:
        """Whether these sequences hold something and no others do. With `scrub`, everything else is overwritten
        then."""
        self.overwrite_pool()
        if self._scrub:
            self._settle()
        return all((self.length(sequence) > 0) == (sequence in sequences) for sequence in range(self._slots))

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
            is_restored = self.restore(sequence, state, lengths[sequence])
            state.wipe()
            if not is_restored:
                raise EngineBroken(f"sequence {sequence} was lost while freed cells were overwritten")

    def _settle(self) -> None:
        """Make llama.cpp do its pending copies now. Raises EngineBroken."""
        if not self._has_pending_copies:
            return
        where, length = self._spare, 0
        if where is None:
            where = min(range(self._slots), key=self.length)
            length = self.length(where)  # 0 unless a copy took the last that was empty
        batch = Batch(1)
        batch.fill([Chunk(where, length, [SOME_TOKEN], False)])
        code = self.decode(batch)
        if code != 0 and not (code == 1 and length):  # 1: every sequence is full; the copies are made all the same
            raise EngineBroken(f"llama_decode failed with {code} in a sequence of {length} tokens")
        llama_cpp.llama_memory_seq_rm(self._memory, where, length, -1)
        if self.length(where) != length:
            raise EngineBroken(f"sequence {where} keeps a token that was not its own")
