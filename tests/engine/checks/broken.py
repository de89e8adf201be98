"""Engines without a model whose isolation is broken, each in one way."""

from __future__ import annotations

import itertools
import random
from typing import Any

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Kept, PassResult, Swapped
from tenantd.engine.fake import FakeCompute, FakeKept, FakeSwapped


class Mixing(FakeCompute):
    """In a pass of several sequences, each is computed with something of the one before it."""

    def run(self, chunks: list[Chunk]) -> PassResult:
        for before, chunk in itertools.pairwise(chunks):
            self._hash[chunk.sequence] ^= self._hash[before.sequence]
        return super().run(chunks)


class MixingTexts(FakeCompute):
    """In a pass of several requests, the texts of each are computed together with the first text of the one before."""

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        for before, chunk in itertools.pairwise(chunks):
            if chunk.texts and before.texts:
                mixed = super().run([chunk._replace(tokens=[t ^ before.tokens[0] for t in chunk.tokens])])
                result.vectors[chunk.sequence] = mixed.vectors[chunk.sequence]
        return result


class SwappingTexts(FakeCompute):
    """In a pass of several requests, the rows of the last one's texts are given to the first, as far as they go."""

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        if len(chunks) > 1 and chunks[0].texts and chunks[-1].texts:
            rows, its = result.vectors[chunks[0].sequence], result.vectors[chunks[-1].sequence]
            result.vectors[chunks[0].sequence] = its[: len(rows)] + rows[len(its) :]
        return result


class CountingTexts(FakeCompute):
    """Texts beside others are computed differently, whatever those are."""

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        if len(chunks) > 1 and chunks[0].texts:
            result.vectors.update({sequence: rows[::-1] for sequence, rows in result.vectors.items()})
        return result


class Echoing(FakeCompute):
    """Attends to what every other sequence holds: goes on as any text does that it has seen in one of them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._texts: dict[int, list[int]] = {}

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        for chunk in chunks:
            self._texts[chunk.sequence] = self._texts.get(chunk.sequence, []) + chunk.tokens
        for sequence, sampled in result.sampled.items():
            last = self._texts[sequence][-3:]
            for other, text in self._texts.items():
                starts = range(len(text) - 3) if other != sequence else ()
                if found := next((text[at + 3] for at in starts if text[at : at + 3] == last), None):
                    result.sampled[sequence] = sampled._replace(token=found)
        return result

    def clear(self, sequence: int) -> None:
        super().clear(sequence)
        self._texts.pop(sequence, None)


class NotClearing(FakeCompute):
    """Says that a sequence is empty, but the next request on it begins with what was left of the one before."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._own: dict[int, list[int]] = {}
        self._left: dict[int, int] = {}

    def run(self, chunks: list[Chunk]) -> PassResult:
        for chunk in chunks:
            self._own.setdefault(chunk.sequence, []).extend(chunk.tokens)
        return super().run(chunks)

    def clear(self, sequence: int) -> None:
        self._left[sequence] = hash(tuple(self._own.pop(sequence, [])))
        super().clear(sequence)

    def bind(self, sequence: int, sampling: Sampling, *rest: Any) -> int:
        micros = super().bind(sequence, sampling, *rest)
        self._hash[sequence] ^= self._left.pop(sequence, 0)
        return micros


class Accumulating(FakeCompute):
    """Never clears anything: each request begins with what was left of all those before it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._left: dict[int, int] = {}

    def clear(self, sequence: int) -> None:
        self._left[sequence] = self._hash[sequence]
        super().clear(sequence)

    def bind(self, sequence: int, sampling: Sampling, *rest: Any) -> int:
        micros = super().bind(sequence, sampling, *rest)
        self._hash[sequence] ^= self._left.pop(sequence, 0)
        return micros


class Holding(FakeCompute):
    """Does not free the cells of a request that is swapped out, until its sequence is used again."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._held: set[int] = set()

    def swap_out(self, sequence: int, room_bytes: int) -> FakeSwapped:
        self._held.add(sequence)
        return super().swap_out(sequence, room_bytes)

    def bind(self, sequence: int, sampling: Sampling, *rest: Any) -> int:
        self._held.discard(sequence)
        return super().bind(sequence, sampling, *rest)

    def is_empty(self) -> bool:
        return not self._held and super().is_empty()


class Confusing(FakeCompute):
    """Restores the state that was swapped out last, whoever's it is."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._last = 0

    def swap_out(self, sequence: int, room_bytes: int) -> FakeSwapped:
        self._last = self._hash[sequence]
        return super().swap_out(sequence, room_bytes)

    def swap_in(self, sequence: int, swapped: Swapped) -> bool:
        is_whole = super().swap_in(sequence, swapped)
        self._hash[sequence] = self._last
        return is_whole


class Remembering(FakeCompute):
    """Takes 5% longer for a prompt that another sequence has had."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seen: dict[tuple[int, ...], int] = {}
        self._usual_sleep = self._sleep

    def run(self, chunks: list[Chunk]) -> PassResult:
        prompts = [(tuple(chunk.tokens), chunk.sequence) for chunk in chunks if chunk.position == 0]
        factor = 1.05 if any(self._seen.get(prompt, its) != its for prompt, its in prompts) else 1.0
        for prompt, sequence in prompts:
            self._seen.setdefault(prompt, sequence)
        self._sleep = lambda duration_s: self._usual_sleep(duration_s * factor)
        return super().run(chunks)


class Inexact(FakeCompute):
    """Computes a little differently each time, as some GPU kernels do."""

    def run(self, chunks: list[Chunk]) -> PassResult:
        for chunk in chunks:
            self._hash[chunk.sequence] ^= random.getrandbits(8)
        return super().run(chunks)


class SharingCopies(FakeCompute):
    """A copy of a prefix and what it was copied from remain one: what the one computes, the other has computed too."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._source: dict[int, int] = {}  # by copy

    def copy(self, source: int, target: int, *rest: Any) -> bool:
        self._source[target] = source
        return super().copy(source, target, *rest)

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        for chunk in chunks:
            if (source := self._source.get(chunk.sequence)) is not None and self._length[source]:
                self._hash[source] ^= self._hash[chunk.sequence]
        return result

    def clear(self, sequence: int) -> None:
        super().clear(sequence)
        self._source.pop(sequence, None)


class ConfusingPrefixes(FakeCompute):
    """Restores a prefix mixed with the one that was saved last."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._last: list[FakeKept] = []

    def save(self, sequence: int, *rest: Any) -> FakeKept | None:
        if (kept := super().save(sequence, *rest)) is not None:
            self._last.append(kept)
        return kept

    def restore(self, sequence: int, kept: Kept) -> bool:
        assert isinstance(kept, FakeKept)
        super().restore(sequence, kept)
        if (last := self._last[-1]) is not kept:
            self._fill(sequence, [one ^ last.hashes[-1] for one in kept.hashes])
        return True


class LeavingPrefixes(FakeCompute):
    """The next request in a sequence where a prefix was parked begins with what that has left."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._left: dict[int, int] = {}

    def clear(self, sequence: int) -> None:
        if self._prefix[sequence]:
            self._left[sequence] = self._hash[sequence]
        super().clear(sequence)

    def bind(self, sequence: int, sampling: Sampling, *rest: Any) -> int:
        micros = super().bind(sequence, sampling, *rest)
        self._hash[sequence] ^= self._left.pop(sequence, 0)
        return micros


class EchoingPrefixes(Echoing):
    """Attends to what is parked in other sequences, and to nothing else of them."""

    def run(self, chunks: list[Chunk]) -> PassResult:
        mine = {chunk.sequence for chunk in chunks}
        hidden = {s: text for s, text in self._texts.items() if s not in mine and not self._prefix[s]}
        self._texts = {s: text for s, text in self._texts.items() if s not in hidden}
        result = super().run(chunks)
        self._texts |= hidden
        return result
