"""Who gets a free slot, and who gives one up to whom. Pure; it decides, the scheduler acts.

Slots are few and whole, shares are fractions: a tenant entitled to 4.6 of 8 slots gets 4 and 5 in turn. The 4 it has
whatever it used before it began to wait. For the rest, who is behind takes a slot from who is ahead, as soon as the
usage between them is worth what the taker will do with the slot before it can be asked to give it back. So how far
tenants with work come apart does not depend on how long their requests are: the bound is in docs/architecture.md, and
tests/engine/test_simulation.py checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tenantd import costs
from tenantd.engine.fairness import Fairness
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.wire.settings import Policy, Settings


@dataclass(frozen=True, slots=True)
class _Standing:
    """How tenants with work stand next to each other, by name."""

    ranks: dict[str, float]  # usage by weight, with what bound requests are about to use
    shares: dict[str, float]  # slots
    leads: dict[str, float]  # of those that wait: what they were given since then, by weight


class Sharing:
    """Compares tenants. Owns nothing: `tenants` is the scheduler's, and changes."""

    def __init__(self, slots: int, fairness: Fairness, settings: Settings, tenants: Mapping[str, TenantJobs]) -> None:
        self._slots = slots
        self._fairness = fairness
        self._settings = settings
        self._tenants = tenants

    def neediest(self, active: Iterable[Job], now_s: float) -> str | None:
        """Whose oldest request gets a free slot: reserves first, then the whole slots of shares, then the least usage.

        None when no request waits that may start.
        """
        waiting = self._waiting(now_s)
        if not waiting:
            return None
        if self._settings.policy is Policy.FIFO:
            return min(waiting, key=lambda name: self._tenants[name].queue[0].arrival)
        now = self._standing(active, now_s)
        least = min(now.leads, key=now.leads.__getitem__, default="")

        def key(name: str) -> tuple[float, ...]:
            tenant = self._tenants[name]
            is_short = tenant.active < math.floor(now.shares[name]) and not self._is_ahead(name, least, now)
            return (tenant.active >= tenant.reserved_slots, not is_short, now.ranks[name], tenant.queue[0].arrival)

        return min(waiting, key=key)

    def victim(self, active: Iterable[Job], now_s: float, fits: Callable[[Job], bool]) -> tuple[Job, str | None] | None:
        """The request that has to give its slot to a tenant that waits, and to which, or to whoever is the neediest;
        None when nobody has to. No slot is free.

        A tenant that is paced gives in any case: it cannot use the slot. Else the one furthest ahead gives its newest
        request that has run for a while. `fits` says whether a request's state can be kept; to compute it again is
        worth it only for a tenant that has less than its share.
        """
        waiting = self.contenders(now_s)
        if self._settings.policy is Policy.FIFO or not waiting:
            return None
        newest_first = sorted(active, key=lambda job: -job.arrival)
        candidates: dict[str, Job] = {}
        for job in newest_first:
            name = job.submit.tenant
            if self._tenants[name].window.allowance(now_s) == 0:
                return job, None
            if job.run_tokens >= self._settings.min_run_tokens:
                candidates.setdefault(name, job)
        now = self._standing(newest_first, now_s)
        holders = sorted(candidates, key=lambda name: -now.ranks[name])
        for taker in sorted(waiting, key=now.ranks.__getitem__):
            for holder in holders:
                if holder != taker and self._must_give(holder, taker, candidates[holder], now, fits):
                    return candidates[holder], taker
        return None

    def contenders(self, now_s: float) -> list[str]:
        """Tenants whose next request waits for nothing but a slot."""
        return [name for name in self._waiting(now_s) if self._can_run(name, now_s)]

    def _must_give(
        self, holder_name: str, taker_name: str, job: Job, now: _Standing, fits: Callable[[Job], bool]
    ) -> bool:
        holder, taker = self._tenants[holder_name], self._tenants[taker_name]
        if holder.active <= holder.reserved_slots:
            return False
        if taker.active < taker.reserved_slots:
            return True
        share, whole = now.shares[holder_name], math.floor(now.shares[taker_name])
        if taker.active < whole and holder.active > share and not self._is_ahead(taker_name, holder_name, now):
            return True  # whatever it used before
        if holder.active < share or taker.active > whole:
            return False
        is_last_whole = holder.active <= math.floor(share)
        if is_last_whole and not self._is_ahead(holder_name, taker_name, now, costs.margin(self._settings)):
            return False
        ahead = now.ranks[holder_name] - self._quantum(job) / holder.weight
        if holder.is_back and holder.active == 1:  # its credit lasts until its first token
            ahead -= self._settings.burst_credit / holder.weight
        worth = (ahead - now.ranks[taker_name]) * taker.weight
        evens_out = holder.active > share and taker.active < now.shares[taker_name]
        if not evens_out:  # a slot more than its share: only for as long as it is behind even then
            if not fits(job):
                return False
            worth -= self._quantum(taker.queue[0])
        return worth > costs.margin(self._settings)

    def _is_ahead(self, name: str, other: str, now: _Standing, more: float = 0.0) -> bool:
        """One was given more than the other since both wait, by more than its next request is worth.

        Only then may it have fewer than the whole slots of its share. One that does not wait is never ahead.
        """
        tenant = self._tenants[name]
        if name not in now.leads or other not in now.leads or not tenant.queue:
            return False
        lead = (now.leads[name] - now.leads[other]) * tenant.weight
        return lead > self._quantum(tenant.queue[0]) + costs.margin(self._settings) + more

    def _standing(self, active: Iterable[Job], now_s: float) -> _Standing:
        leads = {name: self._fairness.lead(name, now_s) for name, t in self._tenants.items() if t.is_waiting}
        return _Standing(self._ranks(active, now_s), self._shares(), leads)

    def _waiting(self, now_s: float) -> list[str]:
        return [name for name, tenant in self._tenants.items() if tenant.queue and tenant.may_start(now_s)]

    def _can_run(self, name: str, now_s: float) -> bool:
        """What is left of its tokens per minute is worth a slot that is taken from another."""
        tenant = self._tenants[name]
        allowance = tenant.window.allowance(now_s)
        if allowance is None:
            return True
        job = tenant.queue[0]
        to_come = len(job.submit.prompt) - job.counted_prompt + job.submit.max_tokens - job.generated
        return allowance >= min(self._settings.min_run_tokens, to_come, tenant.window.limit_tokens or 0)

    def _ranks(self, active: Iterable[Job], now_s: float) -> dict[str, float]:
        """Usage by weight of every busy tenant, with what its bound requests use before they can be asked to give way.

        Or one tenant would take all free slots at once. Who is back from idle has a credit, which buys the first slot.
        """
        credit = -self._settings.burst_credit
        busy = {name: tenant for name, tenant in self._tenants.items() if tenant.is_busy}
        pending = {name: credit if t.is_back and not t.active else 0.0 for name, t in busy.items()}
        for job in active:
            pending[job.submit.tenant] += self._quantum(job)
        return {name: self._fairness.normalised(name, now_s, cost) for name, cost in pending.items()}

    def _quantum(self, job: Job) -> float:
        """Cost until it can be asked to give way: the rest of its prompt, and its first tokens on this slot."""
        settings = self._settings
        prompt = max(0, len(job.submit.prompt) - job.charged_prompt)
        has_run = job.run_tokens if job.sequence >= 0 else 0
        output = max(1, min(settings.min_run_tokens - has_run, job.submit.max_tokens - job.generated))
        return costs.of_tokens(settings, prompt, output)

    def _shares(self) -> dict[str, float]:
        """Slots that each busy tenant is entitled to, by weight: at least its reserve, at most what it can use.

        What one cannot use goes to the others, by weight again.
        """
        shares: dict[str, float] = {}
        open_ = {name: tenant for name, tenant in self._tenants.items() if tenant.is_busy}
        left = float(self._slots)
        while open_:
            level = max(0.0, left) / sum(tenant.weight for tenant in open_.values())
            fitted = {name: tenant.fit(level * tenant.weight) for name, tenant in open_.items()}
            over = sum(fitted.values()) - left
            # Whoever is held at a bound in the direction of the error stays there; the others share the rest.
            held = [name for name, slots in fitted.items() if (slots - level * open_[name].weight) * over > 0]
            for name in held or list(open_):
                shares[name] = round(fitted[name], 9)  # 3 × 0.1 / 0.3 is one slot, not a little more
                left -= fitted[name]
                del open_[name]
        return shares
