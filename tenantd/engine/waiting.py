"""Who waits for a slot, and the virtual time that follows from it: where those start that begin to wait. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tenantd.engine.fairness import Fairness
from tenantd.engine.jobs import TenantJobs
from tenantd.engine.sharing import Sharing


class Waiting:
    """Owner of `is_waiting` of the scheduler's `tenants`."""

    def __init__(self, sharing: Sharing, fairness: Fairness, tenants: Mapping[str, TenantJobs]) -> None:
        self._sharing = sharing
        self._fairness = fairness
        self._tenants = tenants

    def note(self, now_s: float) -> None:
        """See who began to wait since the last step, and raise them to the virtual time."""
        contenders = dict.fromkeys(self._sharing.contenders(now_s))
        began = [name for name in contenders if not self._tenants[name].is_waiting]
        for name, tenant in self._tenants.items():
            goes_on = name in contenders or (tenant.has_backlog and not tenant.queue)
            tenant.is_waiting = (tenant.is_waiting and goes_on) or tenant.was_busy
        if not began:
            return
        level = self.level(now_s)
        others = [name for name, tenant in self._tenants.items() if tenant.is_waiting]
        for name in began:
            self._fairness.begin_to_wait(name, level, others, now_s)
            self._tenants[name].is_waiting = True

    def leave(self, name: str, now_s: float) -> None:
        """A tenant has no work left."""
        self._fairness.leave(name, self.level(now_s, leaving=name), now_s)

    def level(self, now_s: float, leaving: str | None = None) -> float:
        """The virtual time: the least usage by weight of the tenants that wait for a slot.

        While none waits it is the most of those that are busy, or just `leaving`: there is enough for all, so nobody is
        behind. It is never less than it was, except for decay.
        """
        waiting = [name for name, tenant in self._tenants.items() if tenant.is_waiting and tenant.is_busy]
        busy = [name for name, tenant in self._tenants.items() if tenant.is_busy or name == leaving]
        choose, names = (min, waiting) if waiting else (max, busy)
        before = self._fairness.virtual_time(now_s)
        return max(before, choose((self._fairness.normalised(name, now_s) for name in names), default=before))
