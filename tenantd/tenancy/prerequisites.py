"""What must be there before a tenant can be given a setting: a file, or room."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tenantd.domain import CacheUse
from tenantd.errors import InvalidRequest
from tenantd.llamacpp import gguf
from tenantd.tenancy.tenants import check_adapter_path


async def check_adapter(path: str) -> None:
    """Raises InvalidRequest if the file is not an adapter. The engine checks whether it fits the model at the first
    request."""
    if path:
        check_adapter_path(path)
        try:
            await asyncio.to_thread(gguf.check_adapter, Path(path))  # a slow disk must not block the event loop
        except (gguf.NotGguf, ValueError) as e:  # ValueError: not a valid path
            raise InvalidRequest(f"adapter: {e}", param="adapter") from e


def check_cache(use: CacheUse | None, *, has_room: bool) -> None:
    """Raises InvalidRequest for a cache that could hold nothing."""
    if use is CacheUse.ON and not has_room:
        raise InvalidRequest(
            "cache: there is no room for it; set cache.host_bytes in the configuration and restart tenantd",
            param="cache",
        )
