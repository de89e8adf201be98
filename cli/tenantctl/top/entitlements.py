"""What part of the engine each tenant with work is entitled to, as the scheduler has it. Pure."""

from __future__ import annotations

from typing import Any

from tenantd import costs


def entitlements(tenants: list[dict[str, Any]], slots: int) -> dict[str, float]:
    """By name, of tenants with work: a fraction of what all of them are entitled to.

    By weight, at least the slots that are reserved and at most those that a tenant can use; the others share the rest.
    """
    return costs.entitlements(slots, {tenant["name"]: _claim(tenant) for tenant in tenants})


def wanted(tenant: dict[str, Any]) -> int:
    """Requests that have a slot, or can have one."""
    return int(tenant["running"] + tenant["paused"] + tenant["waiting"] - tenant["held"])


def _claim(tenant: dict[str, Any]) -> costs.Claim:
    limits = tenant["limits"]
    return costs.Claim(
        tenant["full_weight"],
        wanted(tenant),
        tenant["running"],
        limits["max_concurrent"],
        limits["reserved_slots"],
    )
