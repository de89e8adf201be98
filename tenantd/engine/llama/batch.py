"""The tokens of one forward pass as llama.cpp takes them."""

from __future__ import annotations

import ctypes

import llama_cpp
import numpy as np

from tenantd.engine.compute import Chunk


class Batch:
    """A llama_batch backed by numpy arrays, so that filling it takes a few slice assignments."""

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
        outputs: list[tuple[Chunk, int]] = []
        end = 0
        for chunk in chunks:
            start, end = end, end + len(chunk.tokens)
            assert end <= len(self._tokens), "a pass fits the batch"
            self._tokens[start:end] = chunk.tokens
            self._positions[start:end] = range(chunk.position, chunk.position + end - start)
            self._sequences[start:end] = chunk.sequence
            self._outputs[start:end] = 0
            if chunk.sample:
                self._outputs[end - 1] = 1
                outputs.append((chunk, end - 1))
        self.struct.n_tokens = end
        return outputs
