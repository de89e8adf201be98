"""Engines that let something of one request reach another, each by one mistake that llama.cpp does not notice."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Mapping
from typing import Any

import llama_cpp

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Kept, Owner, PassResult, Swapped
from tenantd.engine.llama.locked import LockedMemory
from tenantd.engine.llama.sampling import Sampler
from tenantd.engine.llama.sequences import LlamaKept, LlamaSwapped
from tests.isolation.interleaving import SteadyLlama

MOST_LEFT_TOKENS = 50
"""More would leave a later request too little of its context."""


class SkipsClearing(SteadyLlama):
    """The next request on a sequence goes on behind what the last one left there, as if that had been its prompt."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._left = [0] * self.info.slots  # tokens in front of the request's own
        self._left_of: dict[int, int] = {}  # by state kept outside
        self._cells.check_empty = lambda sequence: None  # type: ignore[method-assign]  # it does not look

    def holds_only(self, parked: Mapping[int, int]) -> bool:
        return all(sampler is None for sampler in self._samplers)

    def _wipe(self, sequence: int) -> None:
        self._cells.clear(sequence)
        self._left[sequence] = 0

    def clear(self, sequence: int) -> None:
        length = self._cells.length(sequence)
        if length > MOST_LEFT_TOKENS or self._samplers[sequence] is None:  # None: it was swapped out
            self._wipe(sequence)
        else:
            self._left[sequence] = length
        self._requests[sequence] = self._versions[sequence] = None
        self._prefixes[sequence] = 0
        if (sampler := self._samplers[sequence]) is not None:
            sampler.free()
            self._samplers[sequence] = None

    def run(self, chunks: list[Chunk]) -> PassResult:
        return super().run([chunk._replace(position=chunk.position + self._left[chunk.sequence]) for chunk in chunks])

    def move(self, source: int, target: int) -> None:
        left, self._left[source] = self._left[source], 0
        self._wipe(target)
        super().move(source, target)
        self._left[target] = left

    def swap_out(self, sequence: int, room_bytes: int) -> LlamaSwapped:
        left = self._left[sequence]
        swapped = super().swap_out(sequence, room_bytes)
        self._left_of[id(swapped)] = left
        return swapped

    def swap_in(self, sequence: int, swapped: Swapped, request: int = 0) -> bool:
        self._wipe(sequence)
        is_restored = super().swap_in(sequence, swapped, request)
        if swapped.size_bytes and is_restored:
            self._left[sequence] = self._left_of[id(swapped)]
        return is_restored


class SwapsStates(SteadyLlama):
    """A request gets back the state of another one, cut to its own length."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._kept: list[tuple[int, LockedMemory, int]] = []  # request, a copy of its state, and its length

    def swap_out(self, sequence: int, room_bytes: int) -> LlamaSwapped:
        swapped = super().swap_out(sequence, room_bytes)
        if swapped.state is not None:
            self._kept.append((swapped.request, copied(swapped.state), swapped.length))
        return swapped

    def swap_in(self, sequence: int, swapped: Swapped, request: int = 0) -> bool:
        assert isinstance(swapped, LlamaSwapped)
        length = swapped.length
        others = [(state, n) for other, state, n in self._kept if n >= length and other != request]
        if swapped.state is None or not others:
            return super().swap_in(sequence, swapped, request)
        state, n = others[-1]
        is_restored = super().swap_in(sequence, dataclasses.replace(swapped, state=copied(state), length=n), request)
        llama_cpp.llama_memory_seq_rm(self._cells._memory, sequence, length, -1)
        return is_restored


def copied(state: LockedMemory) -> LockedMemory:
    """Another with the same bytes."""
    copy = LockedMemory(state.size_bytes)
    ctypes.memmove(copy.address, state.address, state.size_bytes)
    return copy


class MixesAnswers(SteadyLlama):
    """Once in ten passes, two requests get each other's token."""

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        self._passes = getattr(self, "_passes", 0) + 1
        if self._passes % 10 == 0 and len(result.sampled) > 1:
            first, second, *_ = result.sampled
            sampled = result.sampled
            sampled[first], sampled[second] = sampled[second], sampled[first]
        return result


class SharesACell(SteadyLlama):
    """One token of a request is in the KV cache of another, beside the other's own. In one pool; streams are apart."""

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        if self.info.kv == "unified" and len(chunks) > 1:
            source, target = chunks[0], chunks[1]
            if source.position > 2 and target.position > 2:
                llama_cpp.llama_memory_seq_cp(self._cells._memory, source.sequence, target.sequence, 1, 2)
        return result


class KeepsTheAdapter(SteadyLlama):
    """The first adapter that is put in force stays in force for everybody."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        put_in_force = self._adapters.put_in_force
        self._adapters.put_in_force = lambda version: self._adapters._in_force or put_in_force(version)


class KeepsTheSampler(SteadyLlama):
    """A request is sampled with the settings of the one that had its sequence before."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._last: dict[int, tuple[Sampling, list[int]]] = {}

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
        super().bind(sequence, sampling, history, generated, adapter, request, prefix)
        last = self._last.get(sequence)
        self._last[sequence] = sampling, history
        if last is not None:
            sampler = self._samplers[sequence]
            assert sampler is not None
            sampler.free()
            self._samplers[sequence] = Sampler(self._vocabulary, *last, generated)
        return 0


class RestoresAnothersPrefix(SteadyLlama):
    """A request begins with the prefix that was kept last, cut to the length of its own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._saved: list[tuple[int, int, LockedMemory]] = []  # prefix, its length, and a copy of its state

    def save(self, sequence: int, owner: Owner, prefix: int, room_bytes: int) -> LlamaKept | None:
        kept = super().save(sequence, owner, prefix, room_bytes)
        if kept is not None:
            self._saved.append((prefix, kept.tokens, copied(kept.state)))
        return kept

    def restore(self, sequence: int, kept: Kept) -> bool:
        assert isinstance(kept, LlamaKept)
        others = [(n, state) for prefix, n, state in self._saved if n >= kept.tokens and prefix != kept.prefix]
        if not others:
            return super().restore(sequence, kept)
        tokens, state = others[-1]
        is_restored = super().restore(sequence, dataclasses.replace(kept, tokens=tokens, state=state))
        llama_cpp.llama_memory_seq_rm(self._cells._memory, sequence, kept.tokens, -1)
        return is_restored


class CopiesAnothersPrefix(SteadyLlama):
    """A request gets a copy of the next sequence that has as many tokens, instead of the one that was asked for."""

    def copy(self, source: int, target: int, owner: Owner, prefix: int, tokens: int) -> bool:
        others = [each for each in range(self.info.slots) if each not in (source, target)]
        long = [each for each in others if self._cells.length(each) >= tokens]
        if not long:
            return super().copy(source, target, owner, prefix, tokens)
        is_copied = self._cells.copy(long[0], target, tokens)
        self._prefixes[target], self._versions[target] = prefix, self._versions[source]
        return is_copied


class KeepsTheEnd(SteadyLlama):
    """A prefix that is cut has its last tokens at the end instead of those that were there."""

    def cut(self, sequence: int, prefix: int, tokens: int) -> bool:
        memory, length = self._cells._memory, self._cells.length(sequence)
        if 0 < length - tokens < tokens and self.info.kv == "unified":
            llama_cpp.llama_memory_seq_rm(memory, sequence, 2 * tokens - length, tokens)
            llama_cpp.llama_memory_seq_add(memory, sequence, tokens, -1, tokens - length)
            return True
        return super().cut(sequence, prefix, tokens)


BROKEN = [
    SkipsClearing,
    SwapsStates,
    MixesAnswers,
    SharesACell,
    KeepsTheAdapter,
    KeepsTheSampler,
    RestoresAnothersPrefix,
    CopiesAnothersPrefix,
    KeepsTheEnd,
]
