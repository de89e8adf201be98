"""The tokens of one forward pass as llama.cpp takes them."""

from __future__ import annotations

import ctypes

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from tenantd.engine.compute import Chunk


class Batch:
    """A llama_batch backed by numpy arrays, each filled by one assignment."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        addresses = self._sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uint64)
        self._pointers = addresses.astype(np.uint64)  # one sequence id for each token
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            embd=None,
            pos=self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, chunks: list[Chunk]) -> list[tuple[Chunk, int]]:
        """Fill the batch. Returns the chunks to sample, with the index of their output in the batch."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[tuple[Chunk, int]] = []
        for chunk in chunks:
            count = len(chunk.tokens)
            tokens += chunk.tokens
            positions += range(chunk.position, chunk.position + count)
            sequences += [chunk.sequence] * count
            if chunk.sample:
                outputs.append((chunk, len(tokens) - 1))
        end = self.struct.n_tokens = len(tokens)
        assert end <= len(self._tokens), "a pass fits the batch"
        self._tokens[:end], self._positions[:end], self._sequences[:end] = tokens, positions, sequences
        # with one token of each sequence, an output of each: the head's rows come in groups as well, see full_pass.py
        self._outputs[:end] = end == len(chunks) > 1
        self._outputs[[index for _, index in outputs]] = 1
        return outputs

    def output_all(self) -> None:
        """Have an output for every token, as a context that embeds needs it."""
        self._outputs[: self.struct.n_tokens] = 1


class ImageBatch:
    """Embeddings of one image, at consecutive positions of one sequence. They stay where they are."""

    def __init__(self, rows: NDArray[np.float32], sequence: int, position: int, *, sample: bool) -> None:
        """With `sample`, there is an output for the last one."""
        count = len(rows)
        self._rows = np.ascontiguousarray(rows)
        self._positions = np.arange(position, position + count, dtype=np.int32)
        self._sequence = np.array([sequence], np.int32)
        self._pointers = np.full(count, self._sequence.ctypes.data, np.uint64)
        self._counts = np.ones(count, np.int32)
        self._outputs = np.zeros(count, np.int8)
        self._outputs[-1] = sample
        self.struct = llama_cpp.llama_batch(
            n_tokens=count,
            token=None,
            embd=self._rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
