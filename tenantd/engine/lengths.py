"""How long answers are expected to be, by tenant, as learned from those that have ended. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from tenantd.engine.jobs import Job

REMEMBERED: Final = 64
"""Answers of each tenant."""
ASSUMED_TOKENS: Final = (32, 128, 384)
"""Lengths of answers that are assumed beside those of a tenant that had few yet."""
ENOUGH: Final = 24
GOLDEN: Final = 0.6180339887498949
"""Its multiples, modulo 1, are spread evenly wherever one begins."""
SILVER: Final = 0.41421356237309515
"""So are those of this one, and they keep away from those of the other."""
NUMBERS: Final = 1 << 20
"""Of greater ones, the multiples are no longer exact."""
SPREAD: Final = 0.6
"""The part of the lengths, those in the middle, that is drawn from: a single extreme would make every wait wrong."""


class Lengths:
    """Remembers the latest answers of each tenant: their tokens, and whether more were not allowed."""

    def __init__(self) -> None:
        self._answers: dict[str, deque[tuple[int, bool]]] = {}
        self._shift = 0.0

    def ended(self, job: Job) -> None:
        """Record the length of an answer, unless there was none."""
        if job.generated and not job.has_failed:
            answers = self._answers.setdefault(job.submit.tenant, deque(maxlen=REMEMBERED))
            answers.append((job.generated, job.generated >= job.submit.max_tokens))

    def forget(self, tenant: str) -> None:
        """Forget a tenant that was removed."""
        self._answers.pop(tenant, None)

    def draw_anew(self) -> None:
        """Draw other lengths from now on."""
        self._shift = (self._shift + SILVER) % 1

    def left(self, job: Job) -> int:
        """How many more tokens a request might generate: a draw from the lengths of its tenant's answers, the same for
        a request until `draw_anew`, and different ones for those next to it. So some end early and some late, as in
        fact."""
        if job.ends:
            return 0
        most = max(1, job.submit.max_tokens - job.generated)
        known = self._answers.get(job.submit.tenant)
        # an answer that was cut off might have gone on as long again
        lengths = [2 * tokens if was_cut else tokens for tokens, was_cut in known or ()]
        if len(lengths) < ENOUGH:  # the first to end are the short ones
            lengths += ASSUMED_TOKENS
        longer = sorted(length for length in lengths if length > job.generated)
        if not longer:
            return min(most, max(1, job.generated // 2))
        part = 0.5 + SPREAD * ((job.arrival % NUMBERS * GOLDEN + self._shift) % 1 - 0.5)
        drawn = longer[int(part * len(longer))]
        return min(most, drawn - job.generated)
