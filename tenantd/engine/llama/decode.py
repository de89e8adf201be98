"""Forward passes with llama.cpp: fill a batch, decode, sample. One context, one sequence per slot."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Hashable
from typing import Final

import llama_cpp
import msgspec
import numpy as np
from numpy.typing import NDArray

from tenantd.domain import Sampling
from tenantd.engine.compute import (
    Chunk,
    EngineBroken,
    OnLogits,
    OnPass,
    Owner,
    PassResult,
    RequestRejected,
    Sampled,
)
from tenantd.engine.llama.adapters import Adapters, Version
from tenantd.engine.llama.batch import Batch, ImageBatch
from tenantd.engine.llama.cells import Cells, Memory
from tenantd.engine.llama.embedding import Embedder
from tenantd.engine.llama.full_pass import is_faster_when_full
from tenantd.engine.llama.loading import load_model
from tenantd.engine.llama.projector import LoadedProjector
from tenantd.engine.llama.sampling import Sampler, Vocabulary
from tenantd.engine.llama.sequences import Sequences
from tenantd.llamacpp.handles import has_recurrent_state
from tenantd.wire.messages import Load, PlacedImage

NO_ROOM: Final = 1  # llama.h, llama_decode: nothing has changed, and a smaller batch may fit
INVALID_BATCH: Final = -1


class LlamaCompute(Sequences):
    """Implements `engine.compute.Compute`. Raises ModelError from the constructor."""

    def __init__(self, load: Load, progress: Callable[[float], None]) -> None:
        loaded = load_model(load, progress)
        self.info = loaded.info
        self.gpu_bus_ids = loaded.gpu_bus_ids
        self.on_logits: OnLogits | None = None
        self.on_pass: OnPass = lambda: None
        self._model, self._context = loaded.model, loaded.context
        memory = Memory(
            load.kv == "unified",
            int(llama_cpp.llama_model_n_swa(self._model)),
            has_recurrent_state(self._model),
            is_on_device=self.info.layers_offloaded > 0,
        )
        self.window_tokens = memory.cuts_tokens
        cells = Cells(self._context, self.info.slots, memory, scrub=load.scrub, spare=loaded.spare)
        super().__init__(cells, self.info.slots)
        self._vocabulary = Vocabulary(self._model, load.grammar_budget_ms)
        self._adapters = Adapters(self._model, self._context)
        self._batch = Batch(int(llama_cpp.llama_n_batch(self._context)))
        may_fill = not self.info.layers_offloaded and not load.scrub  # overwriting cells would be measured, too
        self.is_faster_when_full = may_fill and is_faster_when_full(self._batch, self._cells, self.info.slots)
        self._row = ctypes.c_float * self._vocabulary.size
        self._embedder = None if load.embeddings is None else Embedder(load, self._model, progress)
        if self._embedder is not None:
            self.info = msgspec.structs.replace(self.info, embeddings=self._embedder.info)
        self._projector = LoadedProjector(load, self._model, progress) if load.projector_path else None
        if self._projector is not None:
            self.info = msgspec.structs.replace(self.info, images=self._projector.info)

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
        started_ns = time.perf_counter_ns()
        try:
            version = self._version_for(sequence, adapter, prefix)
            self._samplers[sequence] = Sampler(self._vocabulary, sampling, history, generated)
        except RequestRejected as e:
            e.micros = _micros_since(started_ns)
            raise
        self._requests[sequence], self._versions[sequence] = request, version
        self._prefixes[sequence] = 0
        return _micros_since(started_ns)

    def _version_for(self, sequence: int, adapter: str, prefix: int) -> Version | None:
        """The version of its adapter that a request begins with. Raises RequestRejected."""
        if not prefix:
            self._check_unbound(sequence)
            return self._adapters.version(adapter)
        self._check_owner(sequence, Owner("prefix", prefix))
        version = self._versions[sequence]
        if (version.path if version else "") != adapter:
            raise EngineBroken(f"prefix {prefix} was computed with another adapter")
        return version

    def adapter_version(self, adapter: str) -> Hashable:
        return self._adapters.current(adapter) or ()

    def run(self, chunks: list[Chunk]) -> PassResult:
        started_ns = time.perf_counter_ns()
        if chunks[0].texts:
            return self._embed(chunks)
        self._check(chunks)
        if chunks[0].image is not None:
            return self._look_at(chunks[0], chunks[0].image)
        sampled: dict[int, Sampled] = {}
        own_micros: dict[int, int] = {}
        versions = dict.fromkeys(self._versions[chunk.sequence] for chunk in chunks)
        for version in versions:  # several while an adapter is being replaced
            self._adapters.put_in_force(version)
            self._decode([chunk for chunk in chunks if self._versions[chunk.sequence] == version], sampled, own_micros)
        return PassResult(sampled, _micros_since(started_ns) - sum(own_micros.values()), own_micros)

    def _embed(self, chunks: list[Chunk]) -> PassResult:
        """A pass over texts. Their sequences stay empty."""
        started_ns = time.perf_counter_ns()
        for chunk in chunks:
            self._check_request(chunk.sequence, chunk.request)
            self._cells.check_empty(chunk.sequence)
        if self._embedder is None:
            raise EngineBroken("texts were to be embedded, and nothing is loaded for that")
        self.on_pass()
        found = self._embedder.vectors(chunks)
        failed = {
            sequence: Sampled(-1, False, failed="the model returned NaN or infinity", is_garbled=True)
            for sequence, vectors in found.items()
            if vectors is None
        }
        vectors = {sequence: rows for sequence, rows in found.items() if rows is not None}
        return PassResult(failed, _micros_since(started_ns), vectors=vectors)

    def _look_at(self, chunk: Chunk, image: PlacedImage) -> PassResult:
        """A pass over an image: it is turned into embeddings, and these are computed like tokens."""
        started_ns = time.perf_counter_ns()
        if self._projector is None:
            raise EngineBroken("an image was to be computed, and nothing is loaded for that")
        self._adapters.put_in_force(self._versions[chunk.sequence])
        self.on_pass()
        rows, is_causal = self._projector.embeddings(image), self._projector.is_causal
        image_micros = _micros_since(started_ns)
        step = int(llama_cpp.llama_n_batch(self._context))
        code = 0
        if not is_causal:  # its tokens see each other both ways
            llama_cpp.llama_set_causal_attn(self._context, False)
        for start in range(0, len(rows), step):
            is_last = start + step >= len(rows)
            batch = ImageBatch(
                rows[start : start + step], chunk.sequence, chunk.position + start, sample=chunk.sample and is_last
            )
            if code := self._cells.decode(batch):
                break
        if not is_causal:
            llama_cpp.llama_set_causal_attn(self._context, True)
        sampled: dict[int, Sampled] = {}
        if code == NO_ROOM:
            sampled[chunk.sequence] = Sampled(-1, False, failed="no room in the KV cache")
        elif code:
            raise EngineBroken(f"llama_decode failed with {code} on an image")
        llama_cpp.llama_synchronize(self._context)
        if chunk.sample and not code:
            sampled[chunk.sequence] = self._sample(chunk.sequence, batch.struct.n_tokens - 1)
        return PassResult(sampled, _micros_since(started_ns), image_micros=image_micros)

    def close(self) -> None:
        self._free_samplers()
        if self._embedder is not None:
            self._embedder.close()
        if self._projector is not None:
            self._projector.close()
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _decode(self, chunks: list[Chunk], sampled: dict[int, Sampled], own_micros: dict[int, int]) -> None:
        """Decode and sample. If the KV cache lacks room, retry in halves, until a single token fails alone."""
        outputs = self._batch.fill(chunks)
        self.on_pass()
        code = self._cells.decode(self._batch)
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
        row = memoryview(self._row.from_address(ctypes.addressof(pointer.contents)))
        if self.on_logits is not None:
            self.on_logits(sequence, row.cast("B").cast("f"))
        logits: NDArray[np.float32] = np.frombuffer(row, np.float32)
        sampled = sampler.sample(self._context, index, logits)
        if sampled.is_garbled:
            self._garbled.add(sequence)
        return sampled


def _micros_since(started_ns: int) -> int:
    return (time.perf_counter_ns() - started_ns) // 1000
