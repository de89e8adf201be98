"""Tenants in the engine: their policies, when they have work, and where those start that begin to wait. Pure."""

from __future__ import annotations

from tenantd.engine.fairness import Fairness
from tenantd.engine.jobs import TenantJobs
from tenantd.engine.sharing import Sharing
from tenantd.wire.messages import Backlog, Remember, TenantPolicy


class Roster:
    """Owner of every tenant's queue, policy and flags; the scheduler moves requests in and out of the queues."""

    def __init__(self, sharing: Sharing, fairness: Fairness, by_name: dict[str, TenantJobs]) -> None:
        """`by_name` is read by `sharing`, too."""
        self._sharing = sharing
        self._fairness = fairness
        self._by_name = by_name

    def get(self, name: str) -> TenantJobs:
        """A tenant that may be new."""
        tenant = self._by_name.get(name)
        if tenant is None:
            tenant = self._by_name[name] = TenantJobs()
        return tenant

    # ---- what the daemon says -----------------------------------------------------------------------------------

    def set_policy(self, policy: TenantPolicy) -> None:
        """Effective from the next plan; running requests over a lower `max_concurrent` finish."""
        self._fairness.set_weight(policy.tenant, policy.weight)
        tenant = self.get(policy.tenant)
        tenant.weight = policy.weight
        tenant.max_concurrent = policy.max_concurrent
        tenant.reserved_slots = policy.reserved_slots
        tenant.window.limit_tokens = policy.tokens_per_minute

    def set_backlog(self, backlog: Backlog, now_s: float) -> None:
        """A tenant's requests that wait in the daemon are work, too: with any, it is not idle."""
        if backlog.exists:
            self.with_work(backlog.tenant).has_backlog = True
            return
        tenant = self.get(backlog.tenant)
        if tenant.has_backlog:
            tenant.has_backlog = False
            self.leave_if_idle(backlog.tenant, now_s)

    def forget(self, name: str) -> None:
        """A tenant that is gone. One with requests stays as it is."""
        if (tenant := self._by_name.get(name)) is not None and not tenant.is_busy:
            del self._by_name[name]
            self._fairness.forget(name)

    def remember(self, remember: Remember, now_s: float) -> None:
        """Usage and tokens of the last minute from before this engine, which has run nothing yet."""
        self._fairness.remember(remember.usage, remember.level, now_s)
        for name, given in remember.given.items():
            self.get(name).window.recall(given, now_s)
        for name in remember.busy:
            tenant = self.get(name)
            tenant.was_busy = tenant.is_waiting = True

    # ---- coming, waiting, leaving -------------------------------------------------------------------------------

    def with_work(self, name: str) -> TenantJobs:
        """A tenant about to have work."""
        tenant = self.get(name)
        if not tenant.is_busy and not tenant.was_busy:
            tenant.is_back = True
        tenant.was_busy = False
        return tenant

    def note_waiting(self, now_s: float) -> None:
        """See who began to wait since the last step, and raise them to the virtual time."""
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

    def leave_if_idle(self, name: str, now_s: float) -> None:
        """After one of its requests has ended."""
        if not self._by_name[name].is_busy:
            self._fairness.leave(name, self.level(now_s, leaving=name), now_s)

    def level(self, now_s: float, leaving: str | None = None) -> float:
        """The virtual time: the least usage by weight of the tenants that wait for a slot.

        While none waits it is the most of those that are busy, or just `leaving`: there is enough for all, so nobody is
        behind. It is never less than it was, except for decay.
        """
        waiting = [name for name, tenant in self._by_name.items() if tenant.is_waiting and tenant.is_busy]
        busy = [name for name, tenant in self._by_name.items() if tenant.is_busy or name == leaving]
        choose, names = (min, waiting) if waiting else (max, busy)
        before = self._fairness.virtual_time(now_s)
        return max(before, choose((self._fairness.normalised(name, now_s) for name in names), default=before))
