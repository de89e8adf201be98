"""The option of `tenantctl tenant add` and `set` for a tenant's cache, and how `show` shows it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer


class CacheUse(StrEnum):
    """Whether a tenant's prompts are cached."""

    ON = "on"
    OFF = "off"
    DEFAULT = "default"


Cache = Annotated[
    CacheUse | None,
    typer.Option(
        metavar="on|off|default",
        help="Compute only once what its prompts have in common. Never shared with other tenants.",
    ),
]


def changes(cache: CacheUse | None) -> dict[str, Any]:
    """The field for the option, if it was passed."""
    return {} if cache is None else {"cache": cache.value}


def shown(tenant: dict[str, Any]) -> dict[str, object]:
    """Whether its prompts are cached."""
    note = " (default)" if tenant.get("cache", CacheUse.DEFAULT) == CacheUse.DEFAULT else ""
    return {"cache": ("on" if tenant.get("effective_cache") else "off") + note}
