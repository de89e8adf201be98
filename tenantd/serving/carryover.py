"""What a new daemon takes over from the ledger, so that a restart does not reset anybody's usage. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tenantd import costs
from tenantd.domain import Tenant
from tenantd.ledger.reports import Booked, RecentUsage
from tenantd.tenancy.rates import Rates
from tenantd.wire.settings import Settings


def decayed_usage(
    recent: Iterable[RecentUsage], tenants: Mapping[str, Tenant], scheduler: Settings
) -> dict[str, float]:
    """Usage by weight of each tenant, as the scheduler would have it now."""
    usage: dict[str, float] = {}
    by_id = {tenant.id: tenant for tenant in tenants.values()}
    for row in recent:
        if (tenant := by_id.get(row.tenant_id)) is not None:
            cost = costs.of_request(scheduler, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
            left = cost * costs.left_after(row.age_s, scheduler.half_life_s)
            usage[tenant.name] = usage.get(tenant.name, 0.0) + left / costs.full_weight(tenant)
    return usage


def newcomers_level(usage: Mapping[str, float]) -> float:
    """The level at which newcomers to the fresh engine start: the scheduler's virtual time, judging by the ledger.

    This is the maximum over all tenants. A tenant that worked alone on an idle machine raised the level for later ones,
    but the ledger only has what each of them used itself.
    """
    return max(usage.values(), default=0.0)


def recall_minute(booked: Iterable[Booked], tenants: Mapping[str, Tenant], rates: Rates, now_micros: int) -> None:
    """Count in `rates` what tenants were given in the last minute. `booked` has the oldest first."""
    by_id = {tenant.id: tenant for tenant in tenants.values()}
    for entry in booked:
        if (tenant := by_id.get(entry.tenant_id)) is None:
            continue
        limit = tenant.limits.tokens_per_minute
        rates.recall(
            tenant.name,
            tokens=entry.tokens if limit is None else min(entry.tokens, limit),  # no minute had more
            requests=entry.requests,
            age_micros=entry.age_micros,
            now_micros=now_micros,
        )
