"""Which settings a running daemon can take over from a changed configuration."""

from __future__ import annotations

from typing import Any, Final

from tenantd.config import Config, LimitsConfig, SamplingConfig
from tenantd.listen_settings import same_places

RELOADABLE: Final[dict[str, tuple[str, ...]]] = {
    "server": (
        "max_body_bytes",
        "lenient",
        "body_bytes_total",
        "drain_timeout_s",
        "stop_timeout_s",
        "head_timeout_s",
        "body_timeout_s",
        "idle_timeout_s",
        "write_timeout_s",
        "max_connections_per_uid",
        "max_connections_per_key",
        "max_connections_per_address",
    ),
    "cache": ("default",),
    "embeddings": ("max_inputs",),
    "limits": tuple(LimitsConfig.model_fields),
    "sampling": tuple(SamplingConfig.model_fields),
    "billing": ("currency", "input_price_per_million", "output_price_per_million", "engine_hour_price", "timezone"),
    "ledger": ("settle_timeout_s",),
    "security": ("audit_keep_days", "anchor", "anchor_every_s"),
    "alerts": ("url", "timeout_s"),
    "log": ("level",),
}
"""Settings that SIGHUP can change. Others need a restart, and the log says so. Listeners can change if their addresses
stay."""


def merge(before: Config, found: Config) -> tuple[Config, list[str]]:
    """`before` with the reloadable settings of `found`, and the keys of other settings that differ."""
    sections: dict[str, Any] = {}
    ignored: list[str] = []
    for name in Config.model_fields:
        old, new = getattr(before, name), getattr(found, name)
        changed = [key for key in type(old).__pydantic_fields__ if getattr(old, key) != getattr(new, key)]
        allowed = RELOADABLE.get(name, ())
        if name == "server" and same_places(before.server.listen, found.server.listen):
            allowed += ("listen",)
        if taken := {key: getattr(new, key) for key in changed if key in allowed}:
            sections[name] = old.model_copy(update=taken)
        ignored += [f"{name}.{key}" for key in changed if key not in allowed]
    return before.model_copy(update=sections), ignored
