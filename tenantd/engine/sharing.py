"""Who gets a free slot, and who gives one up to whom. Pure; it decides, the scheduler acts.

Slots are few and whole, shares are fractions: a tenant entitled to 4.6 of 8 slots gets 4 and 5 in turn. Who is behind
takes a slot from who is ahead, as soon as the usage between them is worth what the taker will do with the slot before
it can be asked to give it back. So how far tenants with work come apart does not depend on how long their requests are:
the bound is in docs/architecture.md, and tests/engine/test_simulation.py checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from tenantd.engine.fairness import Fairness
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.engine.settings import Policy, Settings


class Sharing:
    """Compares tenants. Owns nothing: `tenants` is the scheduler's, and changes."""

    def __init__(self, slots: int, fairness: Fairness, settings: Settings, tenants: Mapping[str, TenantJobs]) -> None:
        self._slots = slots
        self._fairness = fairness
        self._settings = settings
        self._tenants = tenants

    def neediest(self, active: Iterable[Job], now_s: float) -> str | None:
        """Whose oldest request gets a free slot: reserved slots first, then least usage, then first come.

        None when no request waits that may start.
        """
        waiting = self._waiting(now_s)
        if not waiting:
            return None
        if self._settings.policy is Policy.FIFO:
            return min(waiting, key=lambda name: self._tenants[name].queue[0].arrival)
        ranks = self._ranks(active, now_s)

        def key(name: str) -> tuple[float, ...]:
            tenant = self._tenants[name]
            return (tenant.active >= tenant.reserved_slots, ranks[name], tenant.queue[0].arrival)

        return min(waiting, key=key)

    def victim(self, active: Iterable[Job], now_s: float, fits: Callable[[Job], bool]) -> Job | None:
        """The request that has to give its slot to a tenant that waits; None when nobody has to. No slot is free.

        A tenant that is paced gives in any case: it cannot use the slot. Else the one furthest ahead gives its newest
        request that has run for a while. `fits` says whether a request's state can be kept; to compute it again is
        worth it only for a tenant that has less than its share.
        """
        waiting = [name for name in self._waiting(now_s) if self._can_run(name, now_s)]
        if self._settings.policy is Policy.FIFO or not waiting:
            return None
        newest_first = sorted(active, key=lambda job: -job.arrival)
        candidates: dict[str, Job] = {}
        for job in newest_first:
            name = job.submit.tenant
            if self._tenants[name].window.allowance(now_s) == 0:
                return job
            if job.run_tokens >= self._settings.min_run_tokens:
                candidates.setdefault(name, job)
        ranks = self._ranks(newest_first, now_s)
        shares = self._shares()
        holders = sorted(candidates, key=lambda name: -ranks[name])
        for taker in sorted(waiting, key=ranks.__getitem__):
            for holder in holders:
                if holder != taker and self._must_give(holder, taker, candidates[holder], ranks, shares, fits):
                    return candidates[holder]
        return None

    def _must_give(
        self,
        holder_name: str,
        taker_name: str,
        job: Job,
        ranks: Mapping[str, float],
        shares: Mapping[str, float],
        fits: Callable[[Job], bool],
    ) -> bool:
        holder, taker = self._tenants[holder_name], self._tenants[taker_name]
        if holder.active <= holder.reserved_slots:
            return False
        if taker.active < taker.reserved_slots:
            return True
        if holder.active < shares[holder_name] or taker.active >= math.floor(shares[taker_name]) + 1:
            return False
        ahead = ranks[holder_name] - self._quantum(job) / holder.weight
        if holder.is_back and holder.active == 1:  # its credit lasts until its first token
            ahead -= self._settings.burst_credit / holder.weight
        worth = (ahead - ranks[taker_name]) * taker.weight
        evens_out = holder.active > shares[holder_name] and taker.active < shares[taker_name]
        if not evens_out:  # a slot more than its share: only for as long as it is behind even then
            if not fits(job):
                return False
            worth -= self._quantum(taker.queue[0])
        return worth > self._settings.margin

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
        return prompt * settings.prompt_token_cost + output * settings.generated_token_cost

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
