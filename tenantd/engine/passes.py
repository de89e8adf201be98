"""Decides what one forward pass contains: prompt tokens, or one token for each decoding request. Pure.

The kind that the neediest tenant waits for goes first; a pass of the other kind follows after `max_stall_ms` at the
latest. The number of prompt tokens in a pass is what the measured speed allows in `target_step_ms`, so that a new
request waits no longer than that. A pass has one LoRA adapter. Prompts choose it in usage order; adapters of decoding
requests take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tenantd import costs
from tenantd.engine.compute import Chunk
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.wire.settings import Policy, Settings

TILE_TOKENS: Final = 16
"""Matrix kernels work in tiles, so 50 tokens cost more than 48 by more than the time of two tokens."""
MEASURABLE_TOKENS: Final = 8
PROBE_TOKENS: Final = 64
"""Prompt tokens in a pass until the speed is known; on a slow machine, more would hold everybody up for a second."""
SPEED_WEIGHT: Final = 0.3
"""Weight of the latest pass in the moving average of prefill speed."""


class Passes:
    """Chooses passes. Keeps the measured prefill speed and the time of the last prefill."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._micros_per_token: float | None = None
        self._prefilled_s = float("-inf")
        self._was_prefill = True  # the last pass

    def choose(
        self, jobs: list[Job], tenants: Mapping[str, TenantJobs], usage: Mapping[str, float], now_s: float
    ) -> list[Chunk]:
        """The chunks of the next pass over the bound `jobs`; empty if all of them are over their tokens per minute, or
        held.

        `usage` is the usage by weight of each tenant with bound requests.
        """
        allowances = {name: tenants[name].window.allowance(now_s) for name in usage}
        jobs = [job for job in jobs if job.generated < job.allowed]
        decoding = _longest_waiting_adapter(self._unpaced([job for job in jobs if job.is_decoding], allowances))
        prefilling = [job for job in jobs if not job.is_decoding and _affordable(job, allowances[job.submit.tenant])]
        if prefilling and (not decoding or self._is_prefills_turn(prefilling, decoding, usage, now_s)):
            self._prefilled_s = now_s
            self._was_prefill = True
            return list(self._prefill(prefilling, tenants, usage, allowances))
        self._was_prefill = False
        return [_chunk(job, 1) for job in decoding]

    def learn(self, chunks: list[Chunk], micros: int) -> None:
        """Update the measured speed with a prefill pass."""
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        if tokens < max(MEASURABLE_TOKENS, 2 * len(chunks)):
            return
        speed = micros / tokens
        before = self._micros_per_token
        self._micros_per_token = speed if before is None else before + SPEED_WEIGHT * (speed - before)

    def tokens_in(self, micros: int) -> float:
        """How many prompt tokens take this long; 0 while the speed is unknown."""
        return micros / self._micros_per_token if self._micros_per_token else 0.0

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

    def _is_prefills_turn(
        self, prefilling: list[Job], decoding: list[Job], usage: Mapping[str, float], now_s: float
    ) -> bool:
        stall_s = self._settings.max_stall_ms / 1000
        is_overdue = now_s - self._prefilled_s >= stall_s
        if now_s - min(job.decoded_s for job in decoding) >= stall_s:
            return (
                is_overdue and not self._was_prefill
            )  # with many adapters one is always overdue, so prefill and decoding alternate
        if self._settings.policy is Policy.FIFO or is_overdue:
            return True
        return min(usage[job.submit.tenant] for job in prefilling) <= min(usage[job.submit.tenant] for job in decoding)

    def _prefill(
        self,
        jobs: list[Job],
        tenants: Mapping[str, TenantJobs],
        usage: Mapping[str, float],
        allowances: Mapping[str, int | None],
    ) -> Iterator[Chunk]:
        """Neediest tenant first, then oldest request; never in slot order. Clearly less needy tenants wait."""
        budget, most = self._budget(), self._settings.prefill_chunk_tokens
        left = dict(allowances)
        if self._settings.policy is Policy.FIFO:
            usage = dict.fromkeys(usage, 0.0)
        jobs = sorted(jobs, key=lambda job: (usage[job.submit.tenant], job.arrival))
        neediest = jobs[0].submit.tenant
        clearly_more = usage[neediest] + costs.margin(self._settings) / tenants[neediest].weight
        for job in jobs:
            name = job.submit.tenant
            if budget <= 0 or usage[name] > clearly_more:
                return
            if job.submit.adapter != jobs[0].submit.adapter:
                continue
            allowance = left[name]
            count = job.stretch if job.stops else job.remaining
            if count > min(budget + budget // 2, most):  # a short remainder is not worth another pass
                count = min(budget, count)
            if allowance is not None:
                count = min(count, _affordable(job, allowance))
                left[name] = allowance - _cost(job, count)
            if count > 0:
                budget -= count
                most -= count
                yield _chunk(job, count)

    def _budget(self) -> int:
        """How many prompt tokens fit one step."""
        most = self._settings.prefill_chunk_tokens
        if self._micros_per_token is None:
            return min(most, PROBE_TOKENS)
        fitting = int(self._settings.target_step_ms * 1000 / max(self._micros_per_token, 1e-3))
        whole_tiles = (fitting + TILE_TOKENS // 2) // TILE_TOKENS * TILE_TOKENS
        return min(most, max(whole_tiles, TILE_TOKENS))


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
    if not decoding:
        return decoding
    adapter = min(decoding, key=lambda job: job.decoded_s).submit.adapter
    return [job for job in decoding if job.submit.adapter == adapter]


def _cost(job: Job, count: int) -> int:
    """How many of its tenant's tokens per minute the next `count` tokens use: prompt tokens not counted before, plus
    the token generated at the end of the prompt."""
    prompt = min(job.computed + count, len(job.submit.prompt)) - max(job.computed, job.counted_prompt)
    return max(0, prompt) + (count == job.remaining)


def _affordable(job: Job, allowance: int | None) -> int:
    """How many of its next tokens `allowance` pays for. None means no limit."""
    if allowance is None or _cost(job, job.remaining) <= allowance:
        return job.remaining
    if allowance == 0:
        return 0
    is_counted = job.counted_prompt >= len(job.submit.prompt)
    free = job.remaining if is_counted else max(0, job.counted_prompt - job.computed)
    return min(free + allowance, job.remaining - 1)


def _chunk(job: Job, count: int) -> Chunk:
    start = job.computed
    tokens = job.tokens[start : start + count] if count > 1 else [job.tokens[start]]
    return Chunk(job.sequence, start, tokens, start + count == len(job.tokens), job.submit.request)
