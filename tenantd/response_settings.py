"""The table of the configuration about responses that are kept."""

from __future__ import annotations

from pydantic import Field

from tenantd.setting_kinds import Section


class ResponsesConfig(Section):
    """Responses (/v1/responses) that clients can continue and fetch again. In memory only, never on disk."""

    keep_s: float = Field(3600, ge=0, le=30 * 86_400, description="Keep each response for this long. 0: keep none.")
    bytes_per_tenant: int = Field(
        8 * 1024 * 1024,
        ge=0,
        le=1 << 40,
        description="Memory for each tenant's responses; the oldest are dropped to make room.",
    )
