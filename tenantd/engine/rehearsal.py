"""Predicts when waiting requests will get their first token, for clients to see. Pure.

Plays the scheduler's own rules on a copy of its state: who gets a slot, who gives one up, what is charged. Only the
steps are coarser: as many tokens at once as change nothing, and passes take what they have been taking.
"""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tenantd import costs
from tenantd.domain import Sampling
from tenantd.engine.jobs import Job
from tenantd.engine.lengths import Lengths
from tenantd.engine.returns import Expected, Size
from tenantd.engine.roster import Roster
from tenantd.engine.sharing import Sharing
from tenantd.engine.slack import Slack
from tenantd.wire.messages import Outlook, Submit
from tenantd.wire.settings import Policy

MOST_TURNS: Final = 1000
"""Requests that are not reached within these are told nothing; that is a minute or more ahead."""
MOST_TOKENS: Final = 32
"""Decoded in one turn while others wait, since usage decides who goes next."""
LONGEST_PREFILL_S: Final = 1.0
"""The same for prompts."""
MOST_TENANTS: Final = 32
"""Of those without a slot, this many tenants take part, the neediest, so that a turn takes as long with a thousand."""
FURTHER: Final = 8
"""How far to look beyond the requests that are here, if the daemon has more of a tenant."""
NEVER: Final = 1 << 62
"""Numbers from here on are not requests, but stand for those of a tenant that the daemon still has."""

ANY: Final = Sampling()


@dataclass(slots=True, eq=False)
class _Part:
    """What a request still has to do."""

    job: Job  # a copy
    prompt: int  # tokens to compute until it has its next token
    output: int  # tokens that it is expected to generate

    def is_over(self) -> bool:
        return not self.prompt and self.output <= 0


class Rehearsal:
    """Call `go_on` until it is false, then read what was found."""

    def __init__(
        self,
        sharing: Sharing,
        active: Iterable[Job],
        slack: Slack,
        lengths: Lengths,
        expected: Mapping[str, Expected],
        now_s: float,
    ) -> None:
        """Copies what it changes; `now_s` is when it begins."""
        self.now_s = self._began_s = now_s
        self._bound: list[int] = []  # requests in the order in which they get a slot
        self._first_s: dict[int, float] = {}  # when those without a token get their first
        self._further_s: dict[str, list[float]] = {}  # when the next requests of a tenant do that the daemon still has
        self._settings = sharing.settings
        self._slack = slack
        self._lengths = lengths
        active = list(active)
        running = {job.submit.tenant for job in active}
        others = [name for name, tenant in sharing.tenants.items() if tenant.is_busy and name not in running]
        if len(others) > MOST_TENANTS:
            others.sort(key=lambda name: _claim(sharing, name, now_s))
        left_out = others[MOST_TENANTS:]
        self._left_out = [tenant.queue[0].arrival for name in left_out if (tenant := sharing.tenants[name]).queue]
        self._last_claim = _claim(sharing, left_out[0], now_s) if left_out else None
        chosen = running.union(others[:MOST_TENANTS], expected.keys() & sharing.tenants.keys()).difference(left_out)
        self._tenants = {name: sharing.tenants[name].copy(now_s) for name in sharing.tenants if name in chosen}
        self._fairness = sharing.fairness.copy(chosen)
        self._sharing = sharing.copy(self._tenants, self._fairness)
        self._roster = Roster(self._sharing, self._fairness, self._tenants)
        self._running = {job.arrival: self._part(job) for job in active}
        self._paused: dict[int, _Part] = {}
        self._free = sharing.slots - len(self._running)
        self._promised: str | None = None
        waiting = [job for tenant in self._tenants.values() for job in tenant.queue]
        self._waiting = {job.arrival for job in waiting}
        self._awaited = {job.arrival for job in (*waiting, *active) if not job.generated}
        self._names = {job.arrival: job.submit.tenant for job in (*waiting, *active)}
        self._further = {name: FURTHER for name, tenant in self._tenants.items() if tenant.has_backlog}
        self._expected = expected
        self._coming = [(at_s, name) for name, each in expected.items() if name in self._tenants for at_s in each.due_s]
        heapq.heapify(self._coming)
        self._returned = dict.fromkeys(expected, 0.5)  # how many have come back, rounded
        self._numbers = NEVER
        self._part_tokens = 0.0  # decoded, but not a whole one yet
        self._turns = 0
        self._is_over = False

    def go_on(self) -> bool:
        """Play one turn: slots change hands, then everybody goes on for a while. False if nothing is left to find."""
        self._turns += 1
        if self._turns > MOST_TURNS or self._is_over or not (self._awaited or self._waiting or self._further):
            return False
        self._welcome()
        self._roster.note_waiting(self.now_s)
        self._make_room()
        self._bind()
        if self._advance():
            return True
        active = [part.job for part in self._running.values()]
        wake_s = min(self._roster.wake_s(active, self.now_s) or math.inf, self._next_s)
        if not self.now_s < wake_s < math.inf:
            return False
        self.now_s = wake_s
        return True

    # ---- what was found -----------------------------------------------------------------------------------------

    def order(self, most: int) -> list[int]:
        """The first `most` waiting requests in the order in which they get a slot. Then come the first ones of tenants
        that took no part; last those that were not reached, or are held back by a limit of their tenant, by arrival."""
        return [*self._bound, *self._left_out, *sorted(self._waiting)][:most]

    def outlook(self, now_s: float) -> Outlook | None:
        """How long requests will wait for their first token, from `now_s`; None while speeds are unknown."""
        if not self._slack.is_known:
            return None
        apart_ms = {}
        for name, further_s in self._further_s.items():
            tenant_s = [at_s for number, at_s in self._first_s.items() if self._names[number] == name]
            begins_s = max(tenant_s, default=self._began_s)
            apart_ms[name] = max(0, round(1000 * (further_s[-1] - begins_s) / len(further_s)))
        return Outlook(
            {number: max(0, round(1000 * (at_s - now_s))) for number, at_s in self._first_s.items()}, apart_ms
        )

    # ---- slots --------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        for _ in range(len(self._running)):
            if self._free:
                return
            active = [part.job for part in self._running.values()]
            if (found := self._sharing.victim(active, self.now_s, lambda job: True)) is None:
                return
            job, self._promised = found
            self._paused[job.arrival] = self._running[job.arrival]
            self._leave(job)
            job.sequence = -1
            self._tenants[job.submit.tenant].put_back(job)

    def _bind(self) -> None:
        while self._free and (name := self._next()) is not None:
            tenant = self._tenants[name]
            job = tenant.queue.popleft()
            if (part := self._paused.pop(job.arrival, None)) is None:
                part = self._part(job)
            if job.arrival in self._waiting:
                self._waiting.discard(job.arrival)
                self._bound.append(job.arrival)
            if tenant.has_backlog and not tenant.queue:
                submit = job.submit
                self._come(name, Size(len(submit.prompt), submit.max_tokens, submit.adapter))
            part.job.run_tokens = 0
            part.job.sequence = 0  # any
            tenant.active += 1
            self._running[job.arrival] = part
            self._free -= 1

    def _next(self) -> str | None:
        name, self._promised = self._promised, None
        if name is None or not (tenant := self._tenants[name]).queue or not tenant.may_start(self.now_s):
            name = self._sharing.neediest((part.job for part in self._running.values()), self.now_s)
        if name is not None and self._last_claim is not None:
            # from here on, those that take no part would come first
            self._is_over = _claim(self._sharing, name, self.now_s) > self._last_claim
        return None if self._is_over else name

    def _leave(self, job: Job) -> None:
        del self._running[job.arrival]
        self._tenants[job.submit.tenant].active -= 1
        self._free += 1

    def _part(self, job: Job) -> _Part:
        return _Part(copy.copy(job), 0 if job.is_decoding else job.remaining, self._lengths.left(job))

    # ---- those to come ------------------------------------------------------------------------------------------

    @property
    def _next_s(self) -> float:
        """When the next request is expected."""
        return self._coming[0][0] if self._coming else math.inf

    def _welcome(self) -> None:
        while self._next_s <= self.now_s:
            _, name = heapq.heappop(self._coming)
            self._come(name, self._expected[name].size)

    def _come(self, name: str, size: Size) -> None:
        """Take it that a request of this size comes."""
        self._numbers += 1
        submit = Submit(
            request=self._numbers,
            tenant=name,
            prompt=[0] * size.prompt_tokens,
            max_tokens=size.max_tokens,
            adapter=size.adapter,
            sampling=0,
        )
        self._roster.with_work(name, self.now_s).add(Job(submit, ANY, submit.prompt, 0, 0))

    def _come_back(self, name: str) -> None:
        """Who sent a request that has ended may send another one, unless there are more already."""
        if (expected := self._expected.get(name)) is None or self._tenants[name].has_backlog:
            return
        self._returned[name] += expected.part
        if self._returned[name] >= 1:
            self._returned[name] -= 1
            heapq.heappush(self._coming, (self.now_s + expected.gap_s, name))

    # ---- time ---------------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Compute something. False if all requests are held back by their limits."""
        allowances = {name: t.window.allowance(self.now_s) for name, t in self._tenants.items() if t.active}
        able = [part for part in self._running.values() if allowances[part.job.submit.tenant] != 0]
        prompts = [part for part in able if part.prompt]
        decoding = [part for part in able if not part.prompt]
        if prompts:
            self._prefill(prompts, decoding, allowances)
        elif decoding:
            self._decode(decoding, allowances)
        return bool(able)

    def _prefill(self, prompts: list[_Part], decoding: list[_Part], allowances: Mapping[str, int | None]) -> None:
        """Compute the neediest prompt, or a part of it, while the others decode now and then."""
        usage = {
            name: self._fairness.normalised(name, self.now_s, -t.credit / t.active)
            for name, t in self._tenants.items()
            if t.active
        }
        first = min(
            prompts, key=lambda part: (usage[part.job.submit.tenant], part.job.submit.is_flex, part.job.arrival)
        )
        job, tokens = first.job, first.prompt
        if (allowance := allowances[job.submit.tenant]) is not None:
            tokens = min(tokens, max(1, allowance))
        prefill_s = self._slack.prompt_s(tokens, is_texts=bool(job.ends))
        part = self._slack.part_of_prompts(job, [other.job for other in decoding], self._tenants, usage)
        whole_s = prefill_s / part
        decoded = 0
        if decoding:
            pass_s = max(1e-6, self._pass_s(decoding))
            most = self._most_tokens(decoding, allowances)
            longest_s = min(LONGEST_PREFILL_S, most * pass_s / max(1e-6, 1 - part))
            if whole_s > longest_s:
                tokens = max(1, int(tokens * longest_s / whole_s))
                whole_s = self._slack.prompt_s(tokens, is_texts=bool(job.ends)) / part
            self._part_tokens += whole_s * (1 - part) / pass_s
            decoded = min(most, int(self._part_tokens))
            self._part_tokens = min(1.0, self._part_tokens - decoded)
        self.now_s += whole_s
        self._compute(first, tokens)
        self._generate(decoding, decoded)

    def _decode(self, decoding: list[_Part], allowances: Mapping[str, int | None]) -> None:
        tokens, pass_s = self._most_tokens(decoding, allowances), self._pass_s(decoding)
        if self._next_s < self.now_s + tokens * pass_s:
            tokens = max(1, int((self._next_s - self.now_s) / pass_s))
        self.now_s += tokens * pass_s
        self._generate(decoding, tokens)

    def _pass_s(self, decoding: list[_Part]) -> float:
        """How long each of them waits for a token. Those with other adapters are not in the same pass."""
        adapters = len({part.job.submit.adapter for part in decoding})
        return adapters * self._slack.decode_s(len(decoding) / adapters)

    def _most_tokens(self, decoding: list[_Part], allowances: Mapping[str, int | None]) -> int:
        """How many each of them may generate before anything has to be decided."""
        tokens = min(part.output for part in decoding)
        if len(self._tenants) > 1 and any(tenant.queue for tenant in self._tenants.values()):
            least = self._settings.min_run_tokens
            to_run = [least - part.job.run_tokens for part in decoding if part.job.run_tokens < least]
            tokens = min(tokens, MOST_TOKENS, *to_run)
        sharers: dict[str, int] = {}
        for part in decoding:
            sharers[part.job.submit.tenant] = sharers.get(part.job.submit.tenant, 0) + 1
        for name, count in sharers.items():
            if (allowance := allowances[name]) is not None:
                tokens = min(tokens, allowance // count)
        return max(1, tokens)

    def _compute(self, part: _Part, tokens: int) -> None:
        job = part.job
        part.prompt -= tokens
        job.computed += tokens
        job.run_tokens += tokens
        fresh = max(0, min(tokens, len(job.submit.prompt) - job.charged_prompt))
        job.charged_prompt += fresh
        self._charge(job, fresh, 0)
        self._tenants[job.submit.tenant].spend(fresh * self._settings.prompt_token_cost)
        if not part.prompt:
            self._generate([part], 1)

    def _generate(self, parts: list[_Part], tokens: int) -> None:
        for part in parts if tokens else ():
            job = part.job
            self._tenants[job.submit.tenant].credit = 0.0
            if not job.generated:
                self._begin(job)
            part.output -= tokens
            job.generated += tokens
            job.run_tokens += tokens
            self._charge(job, 0, 0 if job.ends else tokens)
            if part.output <= 0:
                self._leave(job)
                self._roster.leave_if_idle(job.submit.tenant, self.now_s)
                self._come_back(job.submit.tenant)

    def _begin(self, job: Job) -> None:
        """It has its first token."""
        name = job.submit.tenant
        if job.arrival < NEVER:
            self._awaited.discard(job.arrival)
            self._first_s[job.arrival] = self.now_s
            return
        if name in self._further:
            self._further_s.setdefault(name, []).append(self.now_s)
            self._further[name] -= 1
            if not self._further[name]:
                del self._further[name]

    def _charge(self, job: Job, prompt: int, generated: int) -> None:
        name = job.submit.tenant
        self._fairness.charge(name, costs.of_tokens(self._settings, prompt, generated), self.now_s)
        window = self._tenants[name].window
        if window.limit_tokens is not None:
            window.give((prompt if job.submit.counts_prompt else 0) + generated, self.now_s)


def _claim(sharing: Sharing, name: str, now_s: float) -> tuple[float, ...]:
    """About how soon a busy tenant gets a slot beside others without one: the lowest goes first."""
    tenant = sharing.tenants[name]
    if not tenant.queue or not tenant.may_start(now_s):
        return (math.inf,)
    if sharing.settings.policy is Policy.FIFO:
        return (tenant.queue[0].arrival,)
    # all who wait were compared in this step
    return (float(tenant.active >= tenant.reserved_slots), sharing.fairness.noted(name))
