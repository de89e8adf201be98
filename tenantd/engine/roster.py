"""Tenants in the engine: their policies, whether they have work, and their usage when they begin to wait. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tenantd import costs
from tenantd.engine.fairness import Fairness
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.engine.sharing import Sharing
from tenantd.wire.messages import Backlog, Remember, Submit, TenantPolicy


class Roster:
    """Every tenant's queue, policy and flags. The scheduler moves requests in and out of the queues."""

    def __init__(self, sharing: Sharing, fairness: Fairness, by_name: dict[str, TenantJobs]) -> None:
        """`by_name` is also read by `sharing`."""
        self._sharing = sharing
        self._fairness = fairness
        self._by_name = by_name

    def get(self, name: str) -> TenantJobs:
        """The tenant of this name, created if it is new."""
        tenant = self._by_name.get(name)
        if tenant is None:
            tenant = self._by_name[name] = TenantJobs()
        return tenant

    # ---- commands of the daemon -----------------------------------------------------------------------------------

    def set_policy(self, policy: TenantPolicy) -> None:
        """Takes effect at the next plan. Running requests over a lowered `max_concurrent` finish."""
        tenant = self.get(policy.tenant)
        tenant.full_weight = policy.weight
        tenant.max_concurrent = policy.max_concurrent
        tenant.reserved_slots = policy.reserved_slots
        tenant.cache = policy.cache
        tenant.priority = policy.priority
        tenant.window.limit_tokens = policy.tokens_per_minute
        self._weigh(policy.tenant)

    def set_backlog(self, backlog: Backlog, now_s: float) -> None:
        """Requests that still wait in the daemon are work too: a tenant with any is not idle."""
        name = backlog.tenant
        if backlog.exists:
            tenant = self.with_work(name, now_s, is_flex=backlog.is_flex)
            tenant.has_backlog, tenant.has_flex_backlog = True, backlog.is_flex
        elif (tenant := self.get(name)).has_backlog:
            tenant.has_backlog = tenant.has_flex_backlog = False
            self.leave_if_idle(name, now_s)
        self._weigh(name)

    def forget(self, name: str) -> None:
        """Forget a removed tenant, unless it still has requests."""
        if (tenant := self._by_name.get(name)) is not None and not tenant.is_busy:
            del self._by_name[name]
            self._fairness.forget(name)

    def remember(self, remember: Remember, now_s: float) -> None:
        """Take over usage, and tokens of the last minute, from before this engine. It must not have run anything."""
        self._fairness.remember(remember.usage, remember.level, now_s)
        for name, given in remember.given.items():
            self.get(name).window.recall(given, now_s)
        for name in remember.busy:
            tenant = self.get(name)
            tenant.was_busy = tenant.is_waiting = True

    # ---- arriving, waiting, leaving -------------------------------------------------------------------------------

    def came(self, submit: Submit, now_s: float) -> TenantJobs:
        """The tenant of a request that has come."""
        tenant = self.with_work(submit.tenant, now_s, is_flex=submit.is_flex)
        self._count(submit, 1)
        return tenant

    def left(self, job: Job, now_s: float) -> None:
        """A request that had come has ended. What was computed of it has used up the credit of those that return, even
        if it was cancelled before its first token."""
        if job.charged_prompt:
            self._by_name[job.submit.tenant].credit = 0.0
        self.leave_if_idle(job.submit.tenant, now_s)
        self._count(job.submit, -1)

    def _count(self, submit: Submit, number: int) -> None:
        tenant = self._by_name[submit.tenant]
        if submit.is_flex:
            tenant.flex += number
        else:
            tenant.ordinary += number
        self._weigh(submit.tenant)

    def with_work(self, name: str, now_s: float, *, is_flex: bool = False) -> TenantJobs:
        """The tenant of this name, which is about to have work. The credit of those that return is not for flex
        requests."""
        tenant = self.get(name)
        if not tenant.is_busy and not tenant.was_busy:
            tenant.credit = 0.0
            if not is_flex:
                tenant.come_back(self._sharing.settings, now_s)
        tenant.was_busy = False
        return tenant

    def _weigh(self, name: str) -> None:
        """Give a tenant the weight that goes with its work. Its usage by weight stays the same."""
        tenant = self._by_name[name]
        weight = tenant.full_weight
        if tenant.is_flex:
            weight = costs.flex_weight(weight, tenant.priority)
        if weight != tenant.weight or name not in self._fairness:
            tenant.weight = weight
            self._fairness.set_weight(name, weight)

    def note_waiting(self, now_s: float) -> None:
        """Raise tenants that began to wait since the last step to the virtual time."""
        contenders = dict.fromkeys(self._sharing.contenders(now_s))
        began = [name for name in contenders if not self._by_name[name].is_waiting]
        for name, tenant in self._by_name.items():
            goes_on = name in contenders or (tenant.has_backlog and not tenant.queue)
            tenant.is_waiting = (tenant.is_waiting and goes_on) or tenant.was_busy
        if not began:
            return
        level = self.level(now_s)
        others = [name for name, tenant in self._by_name.items() if tenant.is_waiting]
        for name in began:
            self._fairness.begin_to_wait(name, level, others, now_s)
            self._by_name[name].is_waiting = True

    def wake_s(self, active: Iterable[Job], now_s: float) -> float | None:
        """The earliest time at which a tenant over its tokens per minute may begin something, or go on with one of its
        `active` requests; None if there is none."""
        wanted = {(name, 1) for name, tenant in self._by_name.items() if tenant.is_busy}
        wanted |= {(job.submit.tenant, job.next_whole) for job in active if job.ends or job.image}
        times = [self._by_name[name].window.next_s(now_s, tokens) for name, tokens in wanted]
        return min((time for time in times if time is not None), default=None)

    def leave_if_idle(self, name: str, now_s: float) -> None:
        """Called after one of the tenant's requests has ended."""
        if not (tenant := self._by_name[name]).is_busy:
            tenant.left_s = now_s
            self._fairness.leave(name, self.level(now_s, leaving=name), now_s)

    def level(self, now_s: float, leaving: str | None = None) -> float:
        """The virtual time: the least usage by weight of the tenants that wait for a slot.

        While none waits, it is the maximum over busy tenants, including one that is `leaving`: there is enough for all,
        so nobody is behind. It only falls by decay.
        """
        waiting = [name for name, tenant in self._by_name.items() if tenant.is_waiting and tenant.is_busy]
        busy = [name for name, tenant in self._by_name.items() if tenant.is_busy or name == leaving]
        choose, names = (min, waiting) if waiting else (max, busy)
        before = self._fairness.virtual_time(now_s)
        return max(before, choose((self._fairness.normalised(name, now_s) for name in names), default=before))
