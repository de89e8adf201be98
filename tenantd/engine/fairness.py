"""Decayed usage per tenant: who has had the least for its weight.

Usage U of a tenant: `U <- U * 2^(-dt / half_life) + cost`, ordered by `U / weight`, lowest first. costs.py has the
formulas. Pure: the clock is an argument, in seconds.

The virtual time is the level, usage by weight, to which a tenant is raised when it begins to wait. It never falls
behind, except that it decays as usage does. So idling earns nothing, and work done on an idle machine is held against
nobody: whoever comes next starts where the last one left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tenantd import costs


@dataclass(slots=True)
class _Account:
    weight: float = 1.0
    usage: float = 0.0
    at_s: float = 0.0
    behind: float = 0.0  # the most that its usage may be below the virtual time when it begins to wait
    even: float = 0.0  # the usage at which it is even with the others that wait


class Fairness:
    """Owner of every tenant's usage. Unknown tenants start with weight 1 and no usage."""

    def __init__(self, half_life_s: float, burst_credit: float = 0.0) -> None:
        """`burst_credit` is the most that a tenant may be behind the others when it comes back from idle."""
        assert half_life_s > 0
        self._half_life_s = half_life_s
        self._burst_credit = burst_credit
        self._accounts: dict[str, _Account] = {}
        self._level = self._level_at_s = 0.0  # the virtual time, and when it was that

    def set_weight(self, tenant: str, weight: float) -> None:
        """`weight` > 0, the priority's factor multiplied in. Effective at once, for what comes: usage by weight stays.

        Or who gets another weight would be paid back for the time it had the old one, or pay for it.
        """
        assert weight > 0
        account = self._account(tenant)
        account.usage *= weight / account.weight
        account.behind *= weight / account.weight
        account.even *= weight / account.weight
        account.weight = weight

    def charge(self, tenant: str, cost: float, now_s: float) -> None:
        """Add `cost` at `now_s`. The one place usage grows."""
        assert cost >= 0
        account = self._decayed(tenant, now_s)
        account.usage += cost

    def remember(self, usage: Mapping[str, float], level: float, now_s: float) -> None:
        """Usage by weight of tenants, and the virtual time, as they were elsewhere."""
        for tenant, normalised in usage.items():
            assert normalised >= 0
            account = self._decayed(tenant, now_s)
            account.usage = normalised * account.weight
        self._advance(level, now_s)

    def forget(self, tenant: str) -> None:
        """It is gone for good."""
        self._accounts.pop(tenant, None)

    def normalised(self, tenant: str, now_s: float, pending_cost: float = 0.0) -> float:
        """`(U + pending_cost) / weight` at `now_s`."""
        account = self._decayed(tenant, now_s)
        return (account.usage + pending_cost) / account.weight

    def leave(self, tenant: str, level: float, now_s: float) -> None:
        """A tenant falls idle: note how far it is behind `level`, which the virtual time does not fall below again."""
        account = self._decayed(tenant, now_s)
        behind = self._advance(level, now_s) * account.weight - account.usage
        account.behind = min(max(0.0, behind), self._burst_credit)

    def begin_to_wait(self, tenant: str, level: float, others: Iterable[str], now_s: float) -> None:
        """Raise a tenant, none of whose requests waited until now, to the virtual time, `level` at least; less what it
        was behind when it left, or `burst_credit` when it has work already.

        Without it, hours of idling would buy a monopoly of as long. Usage is never lowered. From now on its `lead` is
        measured, from the least of `others`, who wait already.
        """
        account = self._decayed(tenant, now_s)
        raised = self._advance(level, now_s) * account.weight - account.behind
        account.usage = max(account.usage, raised)
        account.behind = self._burst_credit
        least = min((self.lead(other, now_s) for other in others), default=0.0)
        account.even = account.usage - least * account.weight

    def lead(self, tenant: str, now_s: float) -> float:
        """Usage by weight since it began to wait. Only the difference to another that waits means anything.

        What was used before, on an idle machine or at other times, is not in it.
        """
        account = self._decayed(tenant, now_s)
        return (account.usage - account.even) / account.weight

    def virtual_time(self, now_s: float) -> float:
        """The level below which no newcomer starts, at `now_s`."""
        return self._advance(0.0, now_s)

    def _advance(self, level: float, now_s: float) -> float:
        elapsed_s = now_s - self._level_at_s
        if elapsed_s > 0:
            self._level *= costs.left_after(elapsed_s, self._half_life_s)
            self._level_at_s = now_s
        self._level = max(self._level, level)
        return self._level

    def snapshot(self, now_s: float) -> dict[str, float]:
        """Normalised usage of every tenant."""
        return {tenant: self.normalised(tenant, now_s) for tenant in self._accounts}

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
        return account

    def _decayed(self, tenant: str, now_s: float) -> _Account:
        account = self._account(tenant)
        elapsed_s = now_s - account.at_s
        if elapsed_s > 0:  # a clock that went backwards decays nothing and is not followed back
            left = costs.left_after(elapsed_s, self._half_life_s)
            account.usage *= left
            account.behind *= left
            account.even *= left
            account.at_s = now_s
        return account
