"""The formulas of usage: the cost of tokens, its decay, and the weight that divides it. Pure.

Usage grows by the cost of what is computed: by default 1 for a prompt token and 2 for a generated token, the cost
function of VTC (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024).
"""

from __future__ import annotations

from typing import Final

from tenantd.domain import Tenant
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
