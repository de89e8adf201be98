"""Decides who gets a free slot, and who gives one up to whom. Pure; the scheduler carries out the decisions.

Slots are whole and shares are fractions: a tenant entitled to 4.6 of 8 slots has 4 and 5 in turn. It gets the 4
whatever it used before it began to wait. For the fraction, a tenant that is behind takes a slot from one that is ahead,
as soon as the difference in usage covers what it will use before it can be asked to give the slot back. How far tenants
with work come apart therefore does not depend on the length of their requests. docs/architecture.md states the bound,
and tests/engine/test_simulation.py checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from tenantd import costs
from tenantd.engine.fairness import Fairness
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.wire.settings import Policy, Settings


@dataclass(frozen=True, slots=True)
class Standing:
    """How tenants with work compare, by name."""

    ranks: dict[str, float]  # usage by weight, including what bound requests are about to use
    shares: dict[str, float]  # in slots
    leads: dict[str, float]  # of waiting tenants: usage by weight since they began to wait
    least: str | None  # the tenant with the smallest lead

    def give(self, name: str, usage: float) -> None:
        """Assume that the tenant uses this much, by weight."""
        self.ranks[name] += usage
        if name in self.leads:
            self.leads[name] += usage


class Sharing:
    """Compares tenants. Owns no state: `tenants` belongs to the scheduler and changes."""

    def __init__(self, slots: int, fairness: Fairness, settings: Settings, tenants: Mapping[str, TenantJobs]) -> None:
        self.slots = slots
        self.fairness = fairness
        self.settings = settings
        self.tenants = tenants

    def copy(self, tenants: Mapping[str, TenantJobs], fairness: Fairness) -> Sharing:
        """The same rules for other tenants, to try things on."""
        return Sharing(self.slots, fairness, self.settings, tenants)

    def neediest(self, active: Iterable[Job], now_s: float) -> str | None:
        """The tenant whose oldest request gets a free slot. Reserves come first, then whole slots of shares, then the
        least usage.

        None if no waiting request may start.
        """
        waiting = self._waiting(now_s)
        if not waiting:
            return None
        now = self.standing(active, now_s)
        tenants = self.tenants
        return min(waiting, key=lambda name: self.need(name, tenants[name].active, tenants[name].queue[0], now))

    def need(self, name: str, active: int, head: Job, now: Standing) -> tuple[float, ...]:
        """Sort key of a tenant with `active` slots and this next request; the lowest goes first."""
        if self.settings.policy is Policy.FIFO:
            return (head.arrival,)
        is_short = active < math.floor(now.shares[name]) and not self._is_ahead(name, now.least, now)
        return (active >= self.tenants[name].reserved_slots, not is_short, now.ranks[name], head.arrival)

    def victim(
        self, active: Collection[Job], now_s: float, fits: Callable[[Job], bool]
    ) -> tuple[Job, str | None] | None:
        """The request that must give up its slot, and the tenant that gets the slot (None: the neediest). None if no
        request must. Called when no slot is free.

        A tenant over its tokens per minute always gives up a slot, because it cannot use it. Otherwise the tenant
        furthest ahead gives up its newest request that has run for `min_run_tokens`, a flex request if it has one.
        `fits` tells whether a request's state can be kept; recomputing it is worthwhile only for a tenant with less
        than its share.
        """
        waiting = self.contenders(now_s)
        if self.settings.policy is Policy.FIFO or not waiting:
            return None
        if (own := self.yielding(active, now_s, fits)) is not None:
            return own
        newest_first = sorted(active, key=lambda job: (not job.submit.is_flex, -job.arrival))
        candidates: dict[str, Job] = {}
        for job in newest_first:
            name = job.submit.tenant
            if self.tenants[name].window.allowance(now_s) == 0:
                return job, None
            if job.may_give_way(self.settings.min_run_tokens):
                candidates.setdefault(name, job)
        now = self.standing(newest_first, now_s)
        holders = sorted(candidates, key=lambda name: -now.ranks[name])
        for taker in sorted(waiting, key=now.ranks.__getitem__):
            for holder in holders:
                if holder != taker and self._must_give(holder, taker, candidates[holder], now, fits):
                    return candidates[holder], taker
        return None

    def yielding(
        self, active: Collection[Job], now_s: float, fits: Callable[[Job], bool]
    ) -> tuple[Job, str | None] | None:
        """A flex request that must give up its slot to another request of its tenant, and the tenant; None if there is
        none. It happens when no slot is free, or none for the tenant, and only if the state can be kept: nobody
        would pay for computing it again.
        """
        if self.settings.policy is Policy.FIFO:
            return None
        flex = [job for job in active if job.submit.is_flex and job.may_give_way(self.settings.min_run_tokens)]
        is_full = len(active) >= self.slots
        for job in sorted(flex, key=lambda job: -job.arrival):
            tenant = self.tenants[name := job.submit.tenant]
            if not tenant.queue or tenant.queue[0].submit.is_flex or (not is_full and tenant.has_place(tenant.active)):
                continue
            if self._can_run(name, now_s) and fits(job):
                return job, name
        return None

    def contenders(self, now_s: float) -> list[str]:
        """Tenants whose next request is waiting only for a slot."""
        return [name for name in self._waiting(now_s) if self._can_run(name, now_s)]

    def _must_give(
        self, holder_name: str, taker_name: str, job: Job, now: Standing, fits: Callable[[Job], bool]
    ) -> bool:
        holder, taker = self.tenants[holder_name], self.tenants[taker_name]
        if holder.active <= holder.reserved_slots:
            return False
        if taker.active < taker.reserved_slots:
            return True
        share, whole = now.shares[holder_name], math.floor(now.shares[taker_name])
        if taker.active < whole and holder.active > share and not self._is_ahead(taker_name, holder_name, now):
            return True  # regardless of past usage
        if holder.active < share or taker.active > whole:
            return False
        is_last_whole = holder.active <= math.floor(share)
        if is_last_whole and not self._is_ahead(holder_name, taker_name, now, costs.margin(self.settings)):
            return False
        ahead = now.ranks[holder_name] - self._quantum(job) / holder.weight
        if holder.active == 1:
            ahead -= holder.credit / holder.weight
        worth = (ahead - now.ranks[taker_name]) * taker.weight
        evens_out = holder.active > share and taker.active < now.shares[taker_name]
        if not evens_out:  # the taker exceeds its share: only if it is still behind after using the slot
            if not fits(job):
                return False
            worth -= self._quantum(taker.queue[0])
        return worth > costs.margin(self.settings)

    def _is_ahead(self, name: str, other: str | None, now: Standing, more: float = 0.0) -> bool:
        """Whether a tenant was given more than the other since both wait, by more than its next request is worth.

        Only then may it have fewer than the whole slots of its share. A tenant that does not wait is never ahead.
        """
        tenant = self.tenants[name]
        if name not in now.leads or other not in now.leads or not tenant.queue:
            return False
        lead = (now.leads[name] - now.leads[other]) * tenant.weight
        return lead > self._quantum(tenant.queue[0]) + costs.margin(self.settings) + more

    def standing(self, active: Iterable[Job], now_s: float) -> Standing:
        """How tenants compare at `now_s`."""
        leads = {name: self.fairness.lead(name, now_s) for name, t in self.tenants.items() if t.is_waiting}
        least = min(leads, key=leads.__getitem__, default=None)
        return Standing(self._ranks(active, now_s), self._shares(), leads, least)

    def _waiting(self, now_s: float) -> list[str]:
        return [name for name, tenant in self.tenants.items() if tenant.queue and tenant.may_start(now_s)]

    def _can_run(self, name: str, now_s: float) -> bool:
        """Whether its remaining tokens per minute justify taking a slot from another tenant."""
        tenant = self.tenants[name]
        allowance = tenant.window.allowance(now_s)
        if allowance is None:
            return True
        job = tenant.queue[0]
        to_come = len(job.submit.prompt) - job.counted_prompt + job.submit.max_tokens - job.generated
        return allowance >= min(self.settings.min_run_tokens, to_come, tenant.window.limit_tokens or 0)

    def _ranks(self, active: Iterable[Job], now_s: float) -> dict[str, float]:
        """Usage by weight of every busy tenant, including what its bound requests use before they can be swapped out.

        Otherwise one tenant would take all free slots at once. A tenant back from idle has a credit for its first slot.
        """
        busy = {name: tenant for name, tenant in self.tenants.items() if tenant.is_busy}
        pending = {name: 0.0 if t.active else -t.credit for name, t in busy.items()}
        for job in active:
            pending[job.submit.tenant] += self._quantum(job)
        return {name: self.fairness.normalised(name, now_s, cost) for name, cost in pending.items()}

    def _quantum(self, job: Job) -> float:
        """What the request is expected to use on this slot at least: the rest of its prompt, and its first tokens.

        It may have to give the slot up before that, since prompt tokens also count as run.
        """
        has_run = job.run_tokens if job.sequence >= 0 else 0
        return self.cost(
            job, max(1, min(self.settings.min_run_tokens - has_run, job.submit.max_tokens - job.generated))
        )

    def cost(self, job: Job, output_tokens: int) -> float:
        """Cost of the rest of its prompt and of `output_tokens`."""
        return costs.of_tokens(self.settings, max(0, len(job.submit.prompt) - job.charged_prompt), output_tokens)

    def _shares(self) -> dict[str, float]:
        """Slots that each busy tenant is entitled to, by weight: at least its reserve, at most what it can use."""
        weights = {name: tenant.weight for name, tenant in self.tenants.items() if tenant.is_busy}
        return costs.shares_of_slots(self.slots, weights, lambda name, slots: self.tenants[name].fit(slots))
