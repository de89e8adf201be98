"""What administrators send. A field that is not known is refused: here a typing mistake must not pass for a change."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tenantd.api.body import Body
from tenantd.domain import Limits, OnLimit, Priority
from tenantd.tenancy.store import MAX_WEIGHT, MIN_WEIGHT

Weight = Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT)]
Uids = Annotated[list[Annotated[int, Field(ge=0, le=0xFFFFFFFE)]], Field(max_length=1000)]
Count = Annotated[int, Field(ge=0, le=1 << 31)]


class AdminBody(Body):
    """Known fields only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LimitsBody(AdminBody):
    """null means no limit of its own, 0 none allowed."""

    max_concurrent: Count | None = None
    max_queued: Count | None = None
    max_tokens_per_request: Count | None = None
    max_context_tokens: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    reserved_slots: Count | None = None
    on_limit: OnLimit | None = None
    max_wait_s: Count | None = None

    def given(self) -> dict[str, Any]:
        """The limits that were named, null included; `on_limit` is always something, so null is its default."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        if "on_limit" in given:
            given["on_limit"] = given["on_limit"] or OnLimit.REJECT
        return given


class NewTenant(AdminBody):
    """POST /admin/v1/tenants."""

    name: str
    weight: Weight = 1.0
    priority: Priority = Priority.STANDARD
    uids: Uids = Field(default_factory=list)
    adapter: str = ""
    limits: LimitsBody = LimitsBody()

    def as_limits(self) -> Limits:
        return Limits(**self.limits.given())


class TenantChange(AdminBody):
    """PATCH /admin/v1/tenants/{name}: only what is named changes."""

    weight: Weight | None = None
    priority: Priority | None = None
    uids: Uids | None = None
    adapter: str | None = None  # "" for none
    limits: LimitsBody | None = None

    def changes(self) -> dict[str, Any]:
        """All but the limits, which are merged with those there are."""
        given: dict[str, Any] = {}
        if self.weight is not None:
            given["weight"] = self.weight
        if self.priority is not None:
            given["priority"] = self.priority
        if self.uids is not None:
            given["uids"] = tuple(self.uids)
        if self.adapter is not None:
            given["adapter"] = self.adapter
        return given


class NewKey(AdminBody):
    """POST /admin/v1/tenants/{name}/keys."""

    label: str = Field("", max_length=64)
