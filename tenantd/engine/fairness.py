"""Decayed usage per tenant: who has had the least for its weight.

Usage U of a tenant: `U <- U * 2^(-dt / half_life) + cost`, ordered by `U / weight`, lowest first. The cost of a token
is the caller's (by default 1 for a prompt token computed, 2 for a token generated: the cost function of VTC, Sheng et
al., "Fairness in Serving Large Language Models", OSDI 2024). Pure: the clock is an argument, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class _Account:
    weight: float = 1.0
    usage: float = 0.0
    at_s: float = 0.0
    behind: float = 0.0  # when it fell idle: usage it had less than the least of the others


class Fairness:
    """Owner of every tenant's usage. Unknown tenants start with weight 1 and no usage."""

    def __init__(self, half_life_s: float, burst_credit: float = 0.0) -> None:
        """`burst_credit` is the most that a tenant may be behind the others when it comes back from idle."""
        assert half_life_s > 0
        self._half_life_s = half_life_s
        self._burst_credit = burst_credit
        self._accounts: dict[str, _Account] = {}

    def set_weight(self, tenant: str, weight: float) -> None:
        """`weight` > 0, the priority's factor multiplied in. Effective at once, for what comes: usage by weight stays.

        Or who gets another weight would be paid back for the time it had the old one, or pay for it.
        """
        assert weight > 0
        account = self._account(tenant)
        account.usage *= weight / account.weight
        account.behind *= weight / account.weight
        account.weight = weight

    def charge(self, tenant: str, cost: float, now_s: float) -> None:
        """Add `cost` at `now_s`. The one place usage grows."""
        assert cost >= 0
        account = self._decayed(tenant, now_s)
        account.usage += cost

    def remember(self, tenant: str, normalised: float, now_s: float) -> None:
        """Set a tenant's usage to `normalised` times its weight, as it was elsewhere."""
        assert normalised >= 0
        account = self._decayed(tenant, now_s)
        account.usage = normalised * account.weight

    def forget(self, tenant: str) -> None:
        """It is gone for good."""
        self._accounts.pop(tenant, None)

    def normalised(self, tenant: str, now_s: float, pending_cost: float = 0.0) -> float:
        """`(U + pending_cost) / weight` at `now_s`."""
        account = self._decayed(tenant, now_s)
        return (account.usage + pending_cost) / account.weight

    def leave(self, tenant: str, active: Iterable[str], now_s: float) -> None:
        """A tenant falls idle: note how far it is behind the least of the `active` ones, who go on."""
        floors = [self.normalised(other, now_s) for other in active if other != tenant]
        account = self._decayed(tenant, now_s)
        behind = min(floors) * account.weight - account.usage if floors else 0.0
        account.behind = min(max(0.0, behind), self._burst_credit)

    def lift(self, tenant: str, active: Iterable[str], now_s: float) -> None:
        """Raise a tenant that comes back from idle to where it stood: as far behind the least of the `active` ones as
        when it left.

        So idling neither costs nor earns. Without it, hours of idling would buy a monopoly of as long. Usage is never
        lowered.
        """
        floors = [self.normalised(other, now_s) for other in active if other != tenant]
        if floors:
            account = self._decayed(tenant, now_s)
            account.usage = max(account.usage, min(floors) * account.weight - account.behind)

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
            left = 2.0 ** (-elapsed_s / self._half_life_s)
            account.usage *= left
            account.behind *= left
            account.at_s = now_s
        return account
