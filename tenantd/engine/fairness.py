"""Decayed usage per tenant, which tells who has had the least for its weight.

Usage U of a tenant: `U <- U * 2^(-dt / half_life) + cost`, ordered by `U / weight`, lowest first. costs.py has the
formulas. Pure: the clock is an argument, in seconds.

The virtual time is the level (usage by weight) to which a tenant is raised when it begins to wait. It only falls by
decaying as usage does. So idling earns nothing, and work done on an idle machine is not held against anybody: the next
tenant starts where the last one left.

In words that sharing.py uses as well: the *rank* of a tenant is its usage by weight, with what its bound requests are
about to use. How far it is *behind* is how much lower than the level it may start when it comes back. Its *lead* is its
usage by weight since it began to wait, counted from the usage at which it was *even* with the others that waited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tenantd import costs


@dataclass(slots=True)
class _Account:
    weight: float = 1.0
    usage: float = 0.0
    at_s: float = 0.0
    behind: float = 0.0  # how far its usage may be below the virtual time when it begins to wait
    even: float = 0.0  # the usage at which it is level with the other waiting tenants


class Fairness:
    """Every tenant's usage. Unknown tenants start with weight 1 and no usage."""

    def __init__(self, half_life_s: float, burst_credit: float = 0.0) -> None:
        """`burst_credit` is how far a tenant may at most be behind the others when it returns from idle."""
        assert half_life_s > 0
        self._half_life_s = half_life_s
        self._burst_credit = burst_credit
        self._accounts: dict[str, _Account] = {}
        self._level = self._level_at_s = 0.0  # the virtual time, and when it was computed

    def copy(self, tenants: Iterable[str]) -> Fairness:
        """Another one with the accounts of these tenants, to try things on."""
        other = Fairness(self._half_life_s, self._burst_credit)
        other._accounts = {name: replace(self._accounts[name]) for name in tenants if name in self._accounts}
        other._level, other._level_at_s = self._level, self._level_at_s
        return other

    def set_weight(self, tenant: str, weight: float) -> None:
        """Set the weight (above 0, including the priority's factor) for future usage; usage by weight stays the same.

        Otherwise a tenant would gain or lose for the time during which it had its old weight.
        """
        assert weight > 0
        account = self._account(tenant)
        account.usage *= weight / account.weight
        account.behind = min(account.behind * weight / account.weight, self._burst_credit)
        account.even *= weight / account.weight
        account.weight = weight

    def charge(self, tenant: str, cost: float, now_s: float) -> None:
        """Add `cost` at `now_s`. The only place where usage grows."""
        assert cost >= 0
        account = self._decayed(tenant, now_s)
        account.usage += cost

    def remember(self, usage: Mapping[str, float], level: float, now_s: float) -> None:
        """Take over tenants' usage by weight, and the virtual time, from another engine or the ledger."""
        for tenant, normalised in usage.items():
            assert normalised >= 0
            account = self._decayed(tenant, now_s)
            account.usage = normalised * account.weight
        self._advance(level, now_s)

    def __contains__(self, tenant: str) -> bool:
        """Whether it is known: it was charged or compared, and not forgotten since."""
        return tenant in self._accounts

    def forget(self, tenant: str) -> None:
        """Forget a removed tenant."""
        self._accounts.pop(tenant, None)

    def normalised(self, tenant: str, now_s: float, pending_cost: float = 0.0) -> float:
        """`(U + pending_cost) / weight` at `now_s`."""
        account = self._decayed(tenant, now_s)
        return (account.usage + pending_cost) / account.weight

    def noted(self, tenant: str) -> float:
        """Usage by weight when it was last charged or compared."""
        account = self._account(tenant)
        return account.usage / account.weight

    def leave(self, tenant: str, level: float, now_s: float) -> None:
        """A tenant becomes idle: record how far it is behind `level`, below which the virtual time does not fall."""
        account = self._decayed(tenant, now_s)
        behind = self._advance(level, now_s) * account.weight - account.usage
        account.behind = min(max(0.0, behind), self._burst_credit)

    def begin_to_wait(self, tenant: str, level: float, others: Iterable[str], now_s: float) -> None:
        """Raise a tenant that begins to wait to the virtual time (at least `level`), minus what it was behind when it
        left, or minus `burst_credit` if it already has work.

        Otherwise hours of idling would earn an equally long monopoly. Usage is never lowered. From now on its `lead` is
        measured, starting from the least of `others`, which already wait.
        """
        account = self._decayed(tenant, now_s)
        raised = self._advance(level, now_s) * account.weight - account.behind
        account.usage = max(account.usage, raised)
        account.behind = self._burst_credit
        least = min((self.lead(other, now_s) for other in others), default=0.0)
        account.even = account.usage - least * account.weight

    def lead(self, tenant: str, now_s: float) -> float:
        """Usage by weight since it began to wait. Only differences between waiting tenants are meaningful.

        Excludes earlier usage, for example on an idle machine.
        """
        account = self._decayed(tenant, now_s)
        return (account.usage - account.even) / account.weight

    def virtual_time(self, now_s: float) -> float:
        """The level at `now_s` below which no newcomer starts."""
        return self._advance(0.0, now_s)

    def _advance(self, level: float, now_s: float) -> float:
        elapsed_s = now_s - self._level_at_s
        if elapsed_s > 0:
            self._level *= costs.left_after(elapsed_s, self._half_life_s)
            self._level_at_s = now_s
        self._level = max(self._level, level)
        return self._level

    def snapshot(self, now_s: float) -> dict[str, float]:
        """Usage by weight of every tenant."""
        return {tenant: self.normalised(tenant, now_s) for tenant in self._accounts}

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
        return account

    def _decayed(self, tenant: str, now_s: float) -> _Account:
        account = self._account(tenant)
        elapsed_s = now_s - account.at_s
        if elapsed_s > 0:  # a clock that goes backwards is ignored
            left = costs.left_after(elapsed_s, self._half_life_s)
            account.usage *= left
            account.behind *= left
            account.even *= left
            account.at_s = now_s
        return account
