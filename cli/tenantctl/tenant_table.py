"""Tenants as `tenantctl tenant list` and `show` print them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from tenantctl import billing_options, cache_options, system_prompt_options
from tenantctl.render import print_fields, print_json
from tenantctl.units import NOTHING, moment
from tenantd.limits import LIMITS


def print_tenant(answer: Any, json: bool, more: Mapping[str, object] = MappingProxyType({})) -> None:
    if json:
        print_json(answer)
        return
    tenant = answer["tenant"]
    print_fields(
        {
            "tenant": tenant["name"],
            "state": tenant["state"] + (", throttled to 1/8 of its weight" if tenant.get("throttled_micros") else ""),
            "weight": f"{tenant['weight']:g}",
            "priority": tenant["priority"],
            "uids": _uids(tenant),
            "adapter": tenant.get("adapter") or NOTHING,
            **cache_options.shown(tenant),
            **billing_options.shown(tenant),
            "billed": "no" if tenant["unbilled"] else "yes",
            **system_prompt_options.shown(tenant),
            "special tokens": "allowed in plain prompts" if tenant.get("allow_special") else "not allowed",
            "on anomaly": tenant.get("on_anomaly", "log"),
            **{name.replace("_", " "): _shown_limit(tenant, name) for name in tenant["limits"]},
            **more,
            "created": moment(tenant["created_micros"]),
        }
    )


def _shown_limit(tenant: dict[str, Any], name: str) -> str:
    """The effective limit, marked if it is the default of all tenants."""
    value = tenant["effective_limits"][name]
    notes = ["default"] if tenant["limits"][name] is None else []
    if value == 0 and name in LIMITS and (effect := LIMITS[name].at_zero):
        notes.append(effect)
    return ("none" if value is None else str(value)) + (f" ({'; '.join(notes)})" if notes else "")


COLUMNS: Final = [
    *("tenant", "state", "weight>", "priority", "reserved>", "concurrent>", "queued>", "tokens>", "context>"),
    *("requests/min>", "tokens/min>", "on-limit", "uids"),
]

SPARE: Final = (
    "uids",
    "on-limit",
    "context",
    "tokens",
    "reserved",
    "queued",
    "concurrent",
    "tokens/min",
    "requests/min",
)
"""Columns that are left out first on a narrow terminal."""


def row(tenant: dict[str, Any]) -> list[object]:
    limits = tenant["effective_limits"]
    names = ("reserved_slots", "max_concurrent", "max_queued", "max_tokens_per_request", "max_context_tokens")
    return [
        tenant["name"],
        "throttled" if tenant.get("throttled_micros") and tenant["state"] == "active" else tenant["state"],
        f"{tenant['weight']:g}",
        tenant["priority"],
        *[limits[name] for name in names],
        limits["requests_per_minute"],
        limits["tokens_per_minute"],
        limits["on_limit"],
        _uids(tenant),
    ]


def _uids(tenant: dict[str, Any]) -> str:
    return ",".join(map(str, tenant["uids"])) or NOTHING
