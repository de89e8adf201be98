"""How long prompts may be computed before a decoding stream has waited too long for its next token. Pure.

Every stream is entitled to a pace: a token every `target_itl_ms`, by the class of its tenant. The time until it falls
behind is slack, and prompts are computed in it, as many tokens as fit. Two kinds of prompts may take more, up to
`max_stall_ms`: those of the stream's own tenant, and those of a tenant that has used less, which would otherwise wait
for whoever has used more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tenantd.domain import Priority
from tenantd.engine.compute import Chunk
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.engine.speeds import Line
from tenantd.wire.settings import Policy, Settings

TILE_TOKENS: Final = 16
"""Matrix kernels work in tiles, so 50 tokens cost more than 48 by more than the time of two tokens."""
ROUNDED_UP: Final = TILE_TOKENS // 4
"""Tokens that a tile may lack."""
MEASURABLE_TOKENS: Final = 8
PROBE_TOKENS: Final = 64
"""Prompt tokens in a pass until the speed is known; on a slow machine, more would hold everybody up for a second."""
LONE: Final = 4
"""How many times `max_stall_ms` a pass may take that computes the prompt of the only request there is: larger passes
take less time per token, and nobody else is waiting."""
PUNCTUAL: Final = 0.93
"""The part of a pace that is planned for, because no pass takes exactly as long as expected."""


class Room(NamedTuple):
    """What a pass may have of prompts: about `tokens`, and up to `most` if that completes one."""

    tokens: int
    most: int


class Slack:
    """The entitlements of streams, and the measured times of passes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._step_s = settings.target_step_ms / 1000
        self._stall_s = settings.max_stall_ms / 1000
        paces_ms = {
            Priority.HIGH: settings.target_itl_high_ms,
            Priority.STANDARD: settings.target_itl_ms,
            Priority.LOW: settings.target_itl_low_ms,
        }
        self._pace_s = {name: min(self._stall_s, PUNCTUAL * ms / 1000) for name, ms in paces_ms.items()}
        self._prompts = Line()  # the time of a pass by its prompt tokens
        self._texts = Line()  # and by its tokens of texts to embed, with another model perhaps
        self._decodes = Line(is_flat=True)  # and by its decoding sequences
        self._prefilled_s = float("-inf")
        self._was_prefill = True  # the last pass

    # ---- what was measured --------------------------------------------------------------------------------------

    def learn(self, chunks: list[Chunk], micros: int, *, is_cold: bool = True) -> None:
        """Update the measured times with a pass. Only those that are `is_cold`, without a request that began with a
        cached prefix, teach how long prompts take."""
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        if chunks and chunks[0].image:
            return  # most of it took something else
        if chunks and chunks[0].texts:
            self._texts.learn(tokens, micros)
        elif tokens >= max(MEASURABLE_TOKENS, 2 * len(chunks)):
            if is_cold:
                self._prompts.learn(tokens, micros)
        elif tokens == len(chunks):
            self._decodes.learn(tokens, micros)

    def tokens_in(self, micros: float) -> float:
        """How many prompt tokens take this long on average; 0 while the speed is unknown."""
        return self._prompts.typical(micros)

    # ---- what to expect -----------------------------------------------------------------------------------------

    @property
    def is_known(self) -> bool:
        """Whether it was measured how long prompts and decoding take."""
        return self._decodes.is_known and (self._prompts.is_known or self._texts.is_known)

    def prompt_s(self, tokens: int, *, is_texts: bool = False) -> float:
        """How long so many tokens of prompts take in all."""
        line = self._texts if is_texts and self._texts.is_known else self._prompts
        per_s = line.typical(1e6)
        return tokens / per_s if per_s else 0.0

    def decode_s(self, sequences: float) -> float:
        """How long a pass takes that decodes for this many."""
        return self._decodes.micros(sequences) / 1e6

    def part_of_prompts(
        self, first: Job, decoding: list[Job], tenants: Mapping[str, TenantJobs], usage: Mapping[str, float]
    ) -> float:
        """Which part of the time goes to the neediest prompt and those that can join it, while `decoding` go on."""
        decode_s = self.decode_s(len(decoding))
        part, overdue = 1.0, self._step_s / (self._step_s + self._stall_s)
        for name, pace_s in {(job.submit.tenant, self._pace(job, tenants)) for job in decoding}:
            other = first.submit.tenant
            if name == other or usage[other] <= usage[name] or self._settings.policy is Policy.FIFO:
                part = min(part, self._stall_s / (self._stall_s + decode_s))
                continue
            left_s = 0.0 if tenants[name].is_waiting else pace_s - decode_s
            fits = self._has_room(left_s, self._texts if first.ends else self._prompts)
            part = min(part, left_s / pace_s if fits else overdue)
        return part

    # ---- what may come next -------------------------------------------------------------------------------------

    def begin(self, now_s: float, *, is_prefill: bool) -> None:
        """The next pass computes prompts, or decodes."""
        self._was_prefill = is_prefill
        if is_prefill:
            self._prefilled_s = now_s

    def room_for_prompts(
        self,
        first: Job,
        decoding: list[Job],
        tenants: Mapping[str, TenantJobs],
        usage: Mapping[str, float],
        now_s: float,
    ) -> Room:
        """What the next pass should have of prompts; 0 tokens if it should decode. `first` is the neediest prompt."""
        line = self._texts if first.ends else self._prompts
        step_s = self._longest_s(tenants, now_s)
        if not decoding:
            return self._room(step_s, line, is_strict=line.is_known and step_s > max(self._step_s, self._stall_s))
        decode_s = self._decodes.micros(len(decoding)) / 1e6
        slack_s = min(self._patience_s(job, first, tenants, usage, now_s, decode_s) for job in decoding)
        is_overdue = now_s - self._prefilled_s >= self._stall_s and not self._was_prefill
        if slack_s > 0:
            return self._room(min(slack_s, step_s), line, is_strict=slack_s < self._step_s)
        if not is_overdue:
            return Room(0, 0)
        kept_s = min(self._pace(job, tenants) for job in decoding) - decode_s
        # if nothing fits within their paces, those cannot be kept anyway
        is_kept = self._has_room(kept_s, line)
        return self._room(min(self._step_s, kept_s) if is_kept else self._step_s, line, is_strict=is_kept)

    def urgent(self, decoding: list[Job], clearly_more: float, usage: Mapping[str, float], now_s: float) -> list[Job]:
        """Those of `decoding` that a needy prompt has to wait for: all but the streams of tenants whose usage is
        `clearly_more` and that did not wait for `max_stall_ms`. If there are none, all."""
        kept = [
            job
            for job in decoding
            if usage[job.submit.tenant] <= clearly_more or now_s - job.decoded_s >= self._stall_s
        ]
        return kept or decoding

    def _longest_s(self, tenants: Mapping[str, TenantJobs], now_s: float) -> float:
        """The longest time that a pass may take: `target_step_ms` while a tenant may be back that it would make wait,
        which is one that has nothing to do now, and had within a half-life of usage."""
        recently_s, requests = now_s - self._settings.half_life_s, 0
        for tenant in tenants.values():
            if tenant.is_busy:
                requests += tenant.active + len(tenant.queue) + tenant.has_backlog
            elif tenant.left_s > recently_s:
                return self._step_s
        return max(self._step_s, LONE * self._stall_s if requests == 1 else self._stall_s)

    def _patience_s(
        self,
        job: Job,
        first: Job,
        tenants: Mapping[str, TenantJobs],
        usage: Mapping[str, float],
        now_s: float,
        decode_s: float,
    ) -> float:
        """How long a stream can wait for the prompt before its next pass, which takes `decode_s`, has to begin."""
        mine, other = job.submit.tenant, first.submit.tenant
        waited_s = now_s - job.decoded_s
        if mine == other or usage[other] <= usage[mine] or self._settings.policy is Policy.FIFO:
            # a pass is not cut for the sake of little
            return max(self._step_s, self._stall_s - waited_s) if waited_s < self._stall_s else 0.0
        if tenants[mine].is_waiting:
            return 0.0  # it has used less and lacks slots, so it must not fall further behind
        left_s = self._pace(job, tenants) - decode_s - waited_s
        return left_s if self._has_room(left_s, self._texts if first.ends else self._prompts) else 0.0

    def _pace(self, job: Job, tenants: Mapping[str, TenantJobs]) -> float:
        """How often a stream is entitled to a token, in seconds."""
        return self._pace_s[Priority.LOW if job.submit.is_flex else tenants[job.submit.tenant].priority]

    def _room(self, seconds: float, line: Line, *, is_strict: bool = False) -> Room:
        """The tokens of a pass with these times that take about this long: whole tiles, at least one."""
        most = self._settings.prefill_chunk_tokens
        tokens = min(most, PROBE_TOKENS)
        if line.is_known:
            fitting = min(most, line.size(seconds * 1e6) + ROUNDED_UP)
            tokens = most if fitting == most else min(most, max(int(fitting) // TILE_TOKENS * TILE_TOKENS, TILE_TOKENS))
        return Room(tokens, tokens if is_strict else min(most, tokens + tokens // 2))

    def _has_room(self, seconds: float, line: Line) -> bool:
        """Whether the fewest tokens that are worth a pass with these times take no longer than about this."""
        least = min(TILE_TOKENS, self._settings.prefill_chunk_tokens)
        return seconds > 0 and line.size(seconds * 1e6) + ROUNDED_UP >= least
