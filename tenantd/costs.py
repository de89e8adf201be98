"""The formulas of usage: the cost of tokens, its decay, the weight that divides it, and shares of slots. Pure.

Usage grows by the cost of what is computed: by default 1 for a prompt token and 2 for a generated token, the cost
function of VTC (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tenantd.domain import Priority, Tenant
from tenantd.wire.settings import Settings


def of_tokens(settings: Settings, prompt_tokens: float, generated_tokens: float) -> float:
    """The cost of tokens computed, in units of usage."""
    return prompt_tokens * settings.prompt_token_cost + generated_tokens * settings.generated_token_cost


def of_cached(settings: Settings, cached_tokens: float) -> float:
    """The cost of prompt tokens that need not be computed, in units of usage."""
    return cached_tokens * settings.cached_token_cost


def of_request(settings: Settings, prompt_tokens: float, cached_tokens: float, generated_tokens: float) -> float:
    """The cost of what a request used, in units of usage."""
    return of_tokens(settings, prompt_tokens, generated_tokens) + of_cached(settings, cached_tokens)


def margin(settings: Settings) -> float:
    """The difference in usage from which a tenant of weight 1 is clearly ahead. It prevents thrashing."""
    return of_tokens(settings, 0, settings.min_run_tokens)


def left_after(elapsed_s: float, half_life_s: float) -> float:
    """The fraction of usage left after `elapsed_s`; 1 for negative times."""
    return 2.0 ** (-elapsed_s / half_life_s) if elapsed_s > 0 else 1.0


THROTTLED: Final = 1 / 8
"""Multiplies the weight of a throttled tenant."""


def full_weight(tenant: Tenant) -> float:
    """The divisor of a tenant's usage: its weight times the factor of its priority, an eighth of that if throttled."""
    return tenant.weight * tenant.priority.factor * (1.0 if tenant.throttled_micros is None else THROTTLED)


def flex_weight(weight: float, priority: Priority) -> float:
    """The divisor of the usage of a tenant that has only flex requests: as if its priority were the lowest."""
    return weight * Priority.LOW.factor / priority.factor


def shares_of_slots(slots: int, weights: Mapping[str, float], fit: Callable[[str, float], float]) -> dict[str, float]:
    """Slots that each tenant with work is entitled to, by weight; `fit` raises a number of slots to what a tenant has
    reserved, and lowers it to what it can use.

    What a tenant cannot use is divided among the others, again by weight.
    """
    shares: dict[str, float] = {}
    open_ = dict(weights)
    left = float(slots)
    while open_:
        level = max(0.0, left) / sum(open_.values())
        fitted = {name: fit(name, level * weight) for name, weight in open_.items()}
        over = sum(fitted.values()) - left
        # Tenants at a bound in the direction of the error stay there; the others share the rest.
        held = [name for name, share in fitted.items() if (share - level * open_[name]) * over > 0]
        for name in held or list(open_):
            shares[name] = round(fitted[name], 9)  # 3 × 0.1 / 0.3 is one slot, not a little more
            left -= fitted[name]
            del open_[name]
    return shares


class Claim(NamedTuple):
    """What decides the slots that a tenant is entitled to. `wanted`: requests that have a slot or can have one;
    `running`: those that have a token; `most_at_once`: its limit of these."""

    weight: float
    wanted: int
    running: int
    most_at_once: int | None
    reserved_slots: int | None


def entitlements(slots: int, claims: Mapping[str, Claim]) -> dict[str, float]:
    """Of each tenant that wants a slot, the fraction of what all of them are entitled to."""
    wanting = {name: claim for name, claim in claims.items() if claim.wanted > 0}
    weights = {name: claim.weight for name, claim in wanting.items()}
    entitled = shares_of_slots(max(1, slots), weights, lambda name, share: _fit(wanting[name], share))
    total = sum(entitled.values())
    return {name: each / total for name, each in entitled.items()} if total else {}


def _fit(claim: Claim, slots: float) -> float:
    """As many slots, raised to what is reserved and lowered to what the tenant can use."""
    most = math.inf if claim.most_at_once is None else max(claim.most_at_once, claim.running)
    return float(min(claim.wanted, most, max(claim.reserved_slots or 0, slots)))
