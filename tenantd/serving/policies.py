"""What the engine is told about each tenant."""

from __future__ import annotations

import logging
from collections.abc import Collection

from tenantd import costs
from tenantd.domain import Tenant
from tenantd.wire.messages import TenantPolicy

log = logging.getLogger(__name__)


def shares(tenants: Collection[Tenant], slots: int) -> list[TenantPolicy]:
    """The policies for an engine with this many slots. If more are reserved than exist, warns and ignores all reserves.

    That only happens after engine.slots was lowered; otherwise the reservation would have been refused.
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
            priority=tenant.priority,
            max_concurrent=tenant.limits.max_concurrent,
            reserved_slots=0 if reserved > slots else tenant.limits.reserved_slots or 0,
            tokens_per_minute=tenant.limits.tokens_per_minute,
            cache=(tenant.id or 0) if tenant.is_cached else 0,
        )
        for tenant in tenants
    ]
