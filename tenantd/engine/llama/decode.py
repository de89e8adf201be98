"""Forward passes with llama.cpp: fill a batch, decode, sample. One context, one sequence per slot."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, EngineBroken, OnLogits, PassResult, RequestRejected, Sampled, Swapped
from tenantd.engine.llama.adapters import Adapters, Version
from tenantd.engine.llama.batch import Batch
from tenantd.engine.llama.loading import load_model
from tenantd.engine.llama.sampling import Sampler, Vocabulary
from tenantd.wire.messages import Load

NO_ROOM: Final = 1  # llama.h, llama_decode: nothing has changed, and a smaller batch may fit
INVALID_BATCH: Final = -1


class LlamaCompute:
    """Implements `engine.compute.Compute`. Raises ModelError from the constructor."""

    def __init__(self, load: Load, progress: Callable[[float], None]) -> None:
        loaded = load_model(load, progress)
        self.info = loaded.info
        self.on_logits: OnLogits | None = None
        self._model, self._context = loaded.model, loaded.context
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = Vocabulary(self._model, load.grammar_budget_ms)
        self._samplers: list[Sampler | None] = [None] * self.info.slots
        self._adapters = Adapters(self._model, self._context)
        self._versions: list[Version | None] = [None] * self.info.slots  # adapter version of each bound sequence
        self._batch = Batch(int(llama_cpp.llama_n_batch(self._context)))
        self._row = ctypes.c_float * self._vocabulary.size

    def bind(
        self, sequence: int, sampling: Sampling, history: list[int], generated: list[int], adapter: str = ""
    ) -> int:
        assert self._samplers[sequence] is None and self._is_clear(sequence), "a sequence is empty when bound"
        started_ns = time.perf_counter_ns()
        try:
            version = self._adapters.version(adapter)
            self._samplers[sequence] = Sampler(self._vocabulary, sampling, history, generated)
        except RequestRejected as e:
            e.micros = _micros_since(started_ns)
            raise
        self._versions[sequence] = version
        return _micros_since(started_ns)

    def run(self, chunks: list[Chunk]) -> PassResult:
        started_ns = time.perf_counter_ns()
        sampled: dict[int, Sampled] = {}
        own_micros: dict[int, int] = {}
        for version in dict.fromkeys(
            self._versions[chunk.sequence] for chunk in chunks
        ):  # several while an adapter is being replaced
            self._adapters.put_in_force(version)
            self._decode([chunk for chunk in chunks if self._versions[chunk.sequence] == version], sampled, own_micros)
        return PassResult(sampled, _micros_since(started_ns) - sum(own_micros.values()), own_micros)

    def move(self, source: int, target: int) -> None:
        assert self._samplers[source] is not None and self._samplers[target] is None and self._is_clear(target)
        length = llama_cpp.llama_memory_seq_pos_max(self._memory, source)
        if length >= 0:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            llama_cpp.llama_memory_seq_rm(self._memory, source, -1, -1)
        if llama_cpp.llama_memory_seq_pos_max(self._memory, target) != length or not self._is_clear(source):
            raise EngineBroken(f"sequence {source} was not moved completely to {target}")
        self._samplers[target], self._samplers[source] = self._samplers[source], None
        self._versions[target], self._versions[source] = self._versions[source], None

    def clear(self, sequence: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        if not self._is_clear(sequence):
            raise EngineBroken(f"sequence {sequence} still holds tokens after it was cleared")
        self._versions[sequence] = None
        if (sampler := self._samplers[sequence]) is not None:
            sampler.free()
            self._samplers[sequence] = None

    def swap_out(self, sequence: int, room_bytes: int) -> LlamaSwapped:
        sampler = self._samplers[sequence]
        assert sampler is not None, "only bound sequences are swapped out"
        state = None
        size = int(llama_cpp.llama_state_seq_get_size(self._context, sequence))
        is_unused = self._is_clear(sequence)
        if not is_unused and size <= room_bytes:
            state = np.empty(size, np.uint8)
            if llama_cpp.llama_state_seq_get_data(self._context, _bytes_at(state), size, sequence) != size:
                raise EngineBroken(f"the state of sequence {sequence} could not be saved")
        swapped = LlamaSwapped(sampler, state, is_unused, self._versions[sequence])
        self._samplers[sequence] = None  # kept with the state, so that clearing does not free it
        self.clear(sequence)
        return swapped

    def swap_in(self, sequence: int, swapped: Swapped) -> bool:
        assert isinstance(swapped, LlamaSwapped)
        assert self._samplers[sequence] is None and self._is_clear(sequence), "a sequence is empty when bound"
        self._samplers[sequence] = swapped.sampler
        self._versions[sequence] = swapped.version
        if swapped.state is None:
            return swapped.is_unused
        size = swapped.size_bytes
        if llama_cpp.llama_state_seq_set_data(self._context, _bytes_at(swapped.state), size, sequence) > 0:
            return True
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)  # set_data may leave parts behind
        return False

    def is_empty(self) -> bool:
        return all(s is None for s in self._samplers) and all(map(self._is_clear, range(self.info.slots)))

    def close(self) -> None:
        for sampler in self._samplers:
            if sampler is not None:
                sampler.free()
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _decode(self, chunks: list[Chunk], sampled: dict[int, Sampled], own_micros: dict[int, int]) -> None:
        """Decode and sample. If the KV cache lacks room, retry in halves, until a single token fails alone."""
        outputs = self._batch.fill(chunks)
        code = llama_cpp.llama_decode(self._context, self._batch.struct)
        if code == 0:
            # A GPU may still be working: count its time for this pass, not for the sequence sampled first.
            llama_cpp.llama_synchronize(self._context)
            for chunk, index in outputs:
                started_ns = time.perf_counter_ns()
                sampled[chunk.sequence] = self._sample(chunk.sequence, index)
                own_micros[chunk.sequence] = _micros_since(started_ns)
        elif code == NO_ROOM:
            self._decode_halves(chunks, sampled, own_micros)
        elif code == INVALID_BATCH:
            raise EngineBroken(f"llama_decode refused a batch of {len(chunks)} sequences as invalid")
        else:  # aborted or failed half-way: some sequences hold tokens that were not booked
            raise EngineBroken(f"llama_decode failed with {code}")

    def _decode_halves(self, chunks: list[Chunk], sampled: dict[int, Sampled], own_micros: dict[int, int]) -> None:
        if len(chunks) > 1:
            middle = len(chunks) // 2
            self._decode(chunks[:middle], sampled, own_micros)
            self._decode(chunks[middle:], sampled, own_micros)
            return
        (chunk,) = chunks
        if len(chunk.tokens) == 1:
            sampled[chunk.sequence] = Sampled(-1, False, failed="no room in the KV cache")
            return
        middle = len(chunk.tokens) // 2
        self._decode([chunk._replace(tokens=chunk.tokens[:middle], sample=False)], sampled, own_micros)
        if chunk.sequence not in sampled:  # otherwise the first half has already failed
            rest = chunk._replace(position=chunk.position + middle, tokens=chunk.tokens[middle:])
            self._decode([rest], sampled, own_micros)

    def _sample(self, sequence: int, index: int) -> Sampled:
        sampler = self._samplers[sequence]
        assert sampler is not None, "only bound sequences are run"
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise EngineBroken(f"no logits for output {index}")
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        assert address is not None
        row = memoryview(self._row.from_address(address))
        if self.on_logits is not None:
            self.on_logits(sequence, row.cast("B").cast("f"))
        logits: NDArray[np.float32] = np.frombuffer(row, np.float32)
        return sampler.sample(self._context, index, logits)

    def _is_clear(self, sequence: int) -> bool:
        return bool(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence) == -1)


@dataclass(slots=True)
class LlamaSwapped:
    """A sampler, and the KV state of its sequence in host memory, unless there was no room or nothing to keep."""

    sampler: Sampler
    state: NDArray[np.uint8] | None
    is_unused: bool  # no token was computed yet, so no state is needed
    version: Version | None  # of its adapter

    @property
    def size_bytes(self) -> int:
        return 0 if self.state is None else self.state.nbytes

    def free(self) -> None:
        self.sampler.free()


def _micros_since(started_ns: int) -> int:
    return (time.perf_counter_ns() - started_ns) // 1000


def _bytes_at(array: NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
