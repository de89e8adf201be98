"""What the engine is told of each tenant."""

from __future__ import annotations

import logging
from collections.abc import Collection

from tenantd import costs
from tenantd.domain import Tenant
from tenantd.wire.messages import TenantPolicy

log = logging.getLogger(__name__)


def shares(tenants: Collection[Tenant], slots: int) -> list[TenantPolicy]:
    """Of an engine with so many slots. More reserved slots than there are hold for nobody, and are warned of.

    That can only be when there were more at an earlier start: else it is refused where it is asked for.
    """
    reserved = sum(tenant.limits.reserved_slots or 0 for tenant in tenants)
    if reserved > slots:
        log.warning(
            "%d slots are reserved, but engine.slots is only %d: all reservations are ignored until they fit",
            reserved,
            slots,
        )
    return [
        TenantPolicy(
            tenant=tenant.name,
            weight=costs.full_weight(tenant),
            max_concurrent=tenant.limits.max_concurrent,
            reserved_slots=0 if reserved > slots else tenant.limits.reserved_slots or 0,
            tokens_per_minute=tenant.limits.tokens_per_minute,
        )
        for tenant in tenants
    ]
