"""Embeds texts with llama.cpp: in a context of its own, with a model of its own or the one that generates."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import llama_cpp
import numpy as np

from tenantd.engine.compute import Chunk, EngineBroken
from tenantd.engine.llama.batch import Batch
from tenantd.llamacpp.embedding_context import (
    MOST_TEXTS,
    make_embedding_context,
    most_input_tokens,
    open_embedding_model,
    output_bytes,
    ranks,
)
from tenantd.wire.messages import EmbeddingInfo, Load


class Embedder:
    """One context. Every text is computed whole and sees no other; nothing of it stays after the call."""

    def __init__(self, load: Load, model: Any, progress: Callable[[float], None]) -> None:
        """`model` is the one that generates, and belongs to the caller. Raises ModelError."""
        self._model = open_embedding_model(load, model, no_alloc=False, progress=progress)
        self._is_own = self._model is not model
        self._context = make_embedding_context(load, self._model)
        self._memory = llama_cpp.llama_get_memory(self._context)  # None for a model without a KV cache
        self._most_tokens = most_input_tokens(load, self._model)
        self._most_texts = min(MOST_TEXTS, self._most_tokens)
        self._batch = Batch(self._most_tokens)
        self._ranks = ranks(self._context)
        numbers = llama_cpp.llama_model_n_cls_out if self._ranks else llama_cpp.llama_model_n_embd_out
        dimensions = int(numbers(self._model))
        self._row = ctypes.c_float * dimensions
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, buffer, len(buffer))
        self.info = EmbeddingInfo(
            model=buffer.value.decode("utf-8", "replace"),
            dimensions=dimensions,
            ranks=self._ranks,
            vocabulary=int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))),
            input_tokens=self._most_tokens,
            model_bytes=int(llama_cpp.llama_model_size(self._model)) if self._is_own else 0,
            work_bytes=output_bytes(self._model, self._most_tokens),
        )

    def vectors(self, chunks: list[Chunk]) -> dict[int, bytes | None]:
        """By sequence, the vectors of its texts one after the other, each of length 1 unless they are scores, as 32-bit
        floats. None if the model returned NaN or infinity.

        Raises EngineBroken.
        """
        rows: dict[int, list[bytes | None]] = {chunk.sequence: [] for chunk in chunks}
        for batch in self._batches(chunks):
            for (sequence, _), row in zip(batch, self._compute([tokens for _, tokens in batch]), strict=True):
                rows[sequence].append(row)
        whole: dict[int, bytes | None] = {}
        for sequence, found in rows.items():
            whole[sequence] = None if None in found else b"".join(row for row in found if row is not None)
        return whole

    def close(self) -> None:
        """Free everything."""
        llama_cpp.llama_free(self._context)
        if self._is_own:
            llama_cpp.llama_model_free(self._model)

    def _batches(self, chunks: list[Chunk]) -> Iterator[list[tuple[int, list[int]]]]:
        """The texts with their sequences, as many together as llama.cpp takes."""
        batch: list[tuple[int, list[int]]] = []
        size = 0
        for chunk in chunks:
            start = 0
            for length in chunk.texts:
                if batch and (size + length > self._most_tokens or len(batch) == self._most_texts):
                    yield batch
                    batch, size = [], 0
                batch.append((chunk.sequence, chunk.tokens[start : start + length]))
                start, size = start + length, size + length
        if batch:
            yield batch

    def _compute(self, texts: list[list[int]]) -> list[bytes | None]:
        self._batch.fill([Chunk(place, 0, tokens, False) for place, tokens in enumerate(texts)])
        self._batch.output_all()
        if code := int(llama_cpp.llama_decode(self._context, self._batch.struct)):
            raise EngineBroken(f"llama_decode failed with {code} on {len(texts)} texts to embed")
        llama_cpp.llama_synchronize(self._context)
        found = [self._vector(place) for place in range(len(texts))]
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, True)
            if any(llama_cpp.llama_memory_seq_pos_max(self._memory, place) >= 0 for place in range(len(texts))):
                raise EngineBroken("a text that was embedded is still in the KV cache")
        return found

    def _vector(self, place: int) -> bytes | None:
        pointer = llama_cpp.llama_get_embeddings_seq(self._context, place)
        if not pointer:
            raise EngineBroken(f"no vector for text {place} of a batch")
        row = np.array(ctypes.cast(pointer, ctypes.POINTER(self._row)).contents, np.float32)
        length = float(np.sqrt(np.square(row, dtype=np.float64).sum()))
        if not np.isfinite(length):
            return None
        return bytes((row if self._ranks else row / np.float32(length or 1)).astype("<f4").tobytes())
