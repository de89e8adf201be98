"""Decides what one forward pass contains: prompt tokens, or one token for each decoding request. Pure.

Prompts are computed while no decoding stream falls behind because of it (`slack.py`); otherwise those decode, and on a
CPU take a token of each prompt along where that fills the pass. A pass has one LoRA adapter. Prompts choose it in usage
order; adapters of decoding requests take turns. Texts to embed are prompts like any, but in passes of their own, and
never cut: one that is longer than a pass should be is a pass alone. An image always is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tenantd import costs
from tenantd.engine.compute import Chunk
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.engine.slack import Room, Slack
from tenantd.wire.settings import Policy, Settings

MOST_TEXTS_IN_ALL: Final = 256
"""To embed in one pass: all vectors of a step are told in one message, which `MAX_FRAME_BYTES` bounds. With vectors of
16,384 numbers they take a quarter of that."""

LEAST_JOINING_TOKENS: Final = 8
"""Of a prompt that joins a pass and is not completed by it. With a KV buffer for each sequence, llama.cpp computes the
same number of tokens of each sequence at once, then the rest: fewer would cost almost a pass of their own."""
MOST_COMPANIONS: Final = 3
"""Rows that complete a group of four; more would make the pass longer. See llama/full_pass.py."""
SHALLOW_TOKENS: Final = 512
"""Behind all companions together. Each attends to all that was computed of it, which the others would wait for."""
SHALLOW_PART: Final = 4
"""Behind them may also be this part of what is behind the decoding requests: they hardly make the pass longer then."""


@dataclass(slots=True)
class Plan:
    """One step: sequence moves, in order, then a forward pass over the chunks, unless there are none."""

    moves: list[tuple[int, int]]
    chunks: list[Chunk]


class Passes:
    """Chooses passes. The measured times are kept by `slack`.

    `whole`, if set, is how many sequences there are, and a pass over all of them is faster than over all but one.
    """

    whole = 0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.slack = Slack(settings)

    def choose(
        self, jobs: list[Job], tenants: Mapping[str, TenantJobs], usage: Mapping[str, float], now_s: float
    ) -> list[Chunk]:
        """The chunks of the next pass over the bound `jobs`; empty if all of them are over their tokens per minute, or
        held.

        `usage` is the usage by weight of each tenant with bound requests.
        """
        allowances = {name: tenants[name].window.allowance(now_s) for name in usage}
        decoding: list[Job] = []
        prefilling: list[Job] = []
        for job in jobs:
            if job.generated < job.allowed:
                (decoding if job.is_decoding else prefilling).append(job)
        decoding = _longest_waiting_adapter(self._unpaced(decoding, allowances))
        prefilling = [job for job in prefilling if _affordable(job, allowances[job.submit.tenant])]
        if prefilling:
            prefilling = self._in_order(prefilling, usage)
            clearly_more = self._clearly_more(prefilling[0], tenants, usage)
            room = self.slack.room_for_prompts(prefilling[0], decoding, tenants, usage, now_s)
            if room.tokens:
                self.slack.begin(now_s, is_prefill=True)
                return list(self._prefill(prefilling, room, clearly_more, usage, allowances))
            decoding = self.slack.urgent(decoding, clearly_more, usage, now_s)
        self.slack.begin(now_s, is_prefill=False)
        return [_chunk(job, 1) for job in (*decoding, *self._companions(decoding, prefilling, allowances))]

    def _unpaced(self, jobs: list[Job], allowances: Mapping[str, int | None]) -> list[Job]:
        """The jobs that may get a token. If a tenant has few left in this minute, those that waited longest get
        them."""
        if all(allowance is None for allowance in allowances.values()):
            return jobs
        left = dict(allowances)
        chosen: list[Job] = []
        for job in sorted(jobs, key=lambda job: (job.decoded_s, job.arrival)):
            allowance = left[job.submit.tenant]
            if allowance is None:
                chosen.append(job)
            elif allowance >= (cost := _cost(job, 1)):
                left[job.submit.tenant] = allowance - cost
                chosen.append(job)
        return chosen

    def _companions(
        self, decoding: list[Job], prefilling: list[Job], allowances: Mapping[str, int | None]
    ) -> list[Job]:
        """The prompts of which one token each makes a decoding pass one over all sequences, which costs nobody time
        unless much of them is computed already."""
        if len(decoding) + len(prefilling) != self.whole or not 0 < len(prefilling) <= MOST_COMPANIONS:
            return []
        behind, before = (sum(job.computed for job in jobs) for jobs in (prefilling, decoding))
        if behind > max(SHALLOW_TOKENS, before // SHALLOW_PART):
            return []
        fit = all(
            job.submit.adapter == decoding[0].submit.adapter
            and not job.has_wholes
            and allowances[job.submit.tenant] is None
            for job in prefilling
        )
        return prefilling if fit else []

    def _in_order(self, jobs: list[Job], usage: Mapping[str, float]) -> list[Job]:
        """Neediest tenant first, then its flex requests last, then oldest request; never in slot order."""
        if self._settings.policy is Policy.FIFO:
            return sorted(jobs, key=lambda job: job.arrival)
        return sorted(jobs, key=lambda job: (usage[job.submit.tenant], job.submit.is_flex, job.arrival))

    def _clearly_more(self, first: Job, tenants: Mapping[str, TenantJobs], usage: Mapping[str, float]) -> float:
        """Usage by weight from which a tenant clearly needs less than that of the first prompt."""
        if self._settings.policy is Policy.FIFO:
            return float("inf")
        name = first.submit.tenant
        return usage[name] + costs.margin(self._settings) / tenants[name].weight

    def _prefill(
        self,
        jobs: list[Job],
        room: Room,
        clearly_more: float,
        usage: Mapping[str, float],
        allowances: Mapping[str, int | None],
    ) -> Iterator[Chunk]:
        """The next tokens of the prompts of `jobs`, in their order. Clearly less needy tenants wait."""
        budget, most = room
        left, texts = dict(allowances), MOST_TEXTS_IN_ALL
        for job in jobs:
            name = job.submit.tenant
            if budget <= 0 or usage[name] > clearly_more:
                return
            if job.submit.adapter != jobs[0].submit.adapter or bool(job.ends) != bool(jobs[0].ends):
                continue
            if job.image is not None:
                if job is jobs[0]:
                    yield _chunk(job, job.image.tokens)
                    return
                continue
            allowance = left[name]
            if job.ends:
                count = job.whole_texts(budget, texts) or (job.next_whole if job is jobs[0] else 0)
            else:
                count = job.stretch if job.stops else job.remaining
                if count > min(budget + budget // 2, most):  # a short remainder is not worth another pass
                    count = min(budget, count)
            if allowance is not None:
                count = min(count, _affordable(job, allowance))
            if count < min(job.remaining, LEAST_JOINING_TOKENS) and not (job.ends or job is jobs[0]):
                continue
            if allowance is not None:
                left[name] = allowance - _cost(job, count)
            if count > 0:
                budget -= count
                most -= count
                texts -= len(job.texts_in(count)) if job.ends else 0
                yield _chunk(job, count)


def divided(micros: int, chunks: list[Chunk]) -> list[int]:
    """Divide the time of a pass by tokens, in whole microseconds that add up exactly."""
    total = sum(len(chunk.tokens) for chunk in chunks)
    shares: list[int] = []
    tokens = given = 0
    for chunk in chunks:
        tokens += len(chunk.tokens)
        shares.append(micros * tokens // total - given)
        given += shares[-1]
    return shares


def _longest_waiting_adapter(decoding: list[Job]) -> list[Job]:
    """The jobs that can share a pass with the one that waited longest. Each of n adapters gets every n-th pass."""
    if len({job.submit.adapter for job in decoding}) < 2:
        return decoding
    adapter = min(decoding, key=lambda job: job.decoded_s).submit.adapter
    return [job for job in decoding if job.submit.adapter == adapter]


def _cost(job: Job, count: int) -> int:
    """How many of its tenant's tokens per minute the next `count` tokens use: prompt tokens not counted before, plus
    the token generated at the end of the prompt."""
    prompt = min(job.computed + count, len(job.submit.prompt)) - max(job.computed, job.counted_prompt)
    return max(0, prompt) + (count == job.remaining and not job.ends)


def _affordable(job: Job, allowance: int | None) -> int:
    """How many of its next tokens `allowance` pays for. None means no limit."""
    if allowance is None or _cost(job, job.remaining) <= allowance:
        return job.remaining
    if (image := job.image) is not None:
        return image.tokens if _cost(job, image.tokens) <= allowance else 0
    if job.ends:
        return job.whole_texts(allowance)
    if allowance == 0:
        return 0
    is_counted = job.counted_prompt >= len(job.submit.prompt)
    free = job.remaining if is_counted else max(0, job.counted_prompt - job.computed)
    return min(free + allowance, job.remaining - 1)


def _chunk(job: Job, count: int) -> Chunk:
    start = job.computed
    tokens = job.tokens[start : start + count] if count > 1 else [job.tokens[start]]
    if job.ends:
        return Chunk(job.sequence, start, tokens, False, job.submit.request, job.texts_in(count))
    return Chunk(job.sequence, start, tokens, start + count == len(job.tokens), job.submit.request, (), job.image)
