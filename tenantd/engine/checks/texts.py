"""The second half of check `logits`, for engines that embed or rank texts: those of others do not matter.

The texts of A are computed beside those of B, again with the same, and with others of the same lengths. The vectors of
A must be the same to the last bit, as only contents differ. Computed alone they have another shape, for which llama.cpp
may pick other kernels, so there they must be close.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tenantd.domain import IsolationCheck, Verdict
from tenantd.engine.checks import sameness
from tenantd.engine.checks.stage import GREEDY, OUT_OF_TIME, REQUEST, Course, Stage
from tenantd.engine.compute import Chunk
from tenantd.wire.messages import CheckResult, EmbeddingInfo

ROUNDS: Final = {True: 4, False: 40}
"""If quick and if not."""
MOST_S: Final = 20.0
MOST_TEXTS: Final = 3
"""Of a request."""
MOST_TOKENS: Final = 24
"""Of a text."""
CONTENTS: Final = (0, 0, 0, 1, 2)
"""As in `sameness`."""
CLOSE: Final = 0.01
"""How far vectors, of the length 1, may be apart from those computed alone; scores by as large a part of themselves."""
PART: Final = 0.9
"""Of the progress, that of the first half."""

_Texts = list[list[int]]


def check(stage: Stage) -> Course:
    """Run both halves. Yields the progress."""
    info = stage.compute.info.embeddings
    first = sameness.check(stage)
    while True:
        try:
            part = next(first)
        except StopIteration as end:
            result: CheckResult = end.value
            break
        yield part if info is None else PART * part
    if info is None or result.result is not Verdict.HELD:
        return result
    stage.clear_all()
    rounds, last = ROUNDS[stage.plan.quick], stage.deadline(MOST_S)
    for number in range(rounds):
        if last.is_over:
            return result if number else _result(Verdict.INCONCLUSIVE, result.n, OUT_OF_TIME.format("no texts"))
        one = _Round(stage, info, number)
        if (found := one.compare()) is not None:
            return _result(found.verdict, result.n + number, found.detail)
        yield PART + (1 - PART) * (number + 1) / rounds
    return _result(Verdict.HELD, result.n + rounds)


def _result(verdict: Verdict, number: int, detail: str = "") -> CheckResult:
    return CheckResult(name=IsolationCheck.LOGITS, result=verdict, n=number, detail=detail)


class _Found(NamedTuple):
    verdict: Verdict
    detail: str


class _Round:
    """Texts of A and the lengths of those of B, drawn at random, on two sequences if there are two."""

    def __init__(self, stage: Stage, info: EmbeddingInfo, number: int) -> None:
        self._stage, self._info, self._number = stage, info, number
        random = stage.plan.random("lengths", number)
        most = min(MOST_TOKENS, info.input_tokens)
        mine, its = ([random.randint(1, most) for _ in range(random.randint(1, MOST_TEXTS))] for _ in range(2))
        self._mine, self._its = self._texts("a", mine), its
        self._places = random.sample(range(stage.slots), 2) if stage.slots > 1 else None

    def compare(self) -> _Found | None:
        """What is wrong; None if nothing is."""
        _, reference, again, *others = [self._beside(self._texts(content, self._its)) for content in CONTENTS]
        if not reference:
            return _Found(Verdict.INCONCLUSIVE, "the model returned no numbers for the texts")
        if reference != again:
            return _Found(Verdict.INCONCLUSIVE, "the engine computes other vectors for the same texts")
        if any(other != reference for other in others):
            return _Found(Verdict.FAILED, "vectors of texts depend on what other requests' texts contain")
        if not self._is_close(self._run({0: self._mine}).get(0, b""), reference):
            return _Found(Verdict.FAILED, "vectors of texts are others beside another request than alone")
        return None

    def _texts(self, content: object, lengths: list[int]) -> _Texts:
        random = self._stage.plan.random("texts", self._number, content)
        return [[random.randrange(self._info.vocabulary) for _ in range(length)] for length in lengths]

    def _beside(self, others: _Texts) -> bytes:
        """The vectors of A's texts, together with others or after them."""
        if self._places is None:
            self._run({0: others})
            return self._run({0: self._mine}).get(0, b"")
        mine, its = self._places
        return self._run({mine: self._mine, its: others}).get(mine, b"")

    def _run(self, requests: dict[int, _Texts]) -> dict[int, bytes]:
        """Vectors by sequence, without those that are no numbers."""
        chunks = []
        for sequence, texts in sorted(requests.items()):
            self._stage.bind(sequence, GREEDY, [])
            tokens = [token for text in texts for token in text]
            chunks.append(Chunk(sequence, 0, tokens, False, REQUEST, tuple(map(len, texts))))
        vectors = self._stage.compute.run(chunks).vectors
        for sequence in requests:
            self._stage.clear(sequence)
        return vectors

    def _is_close(self, alone: bytes, beside: bytes) -> bool:
        one, other = (np.frombuffer(each, "<f4").astype(np.float64) for each in (alone, beside))
        scale = np.maximum(1.0, np.abs(one)) if self._info.ranks else 1.0
        return one.shape == other.shape and bool((np.abs(one - other) <= CLOSE * scale).all())
