"""Request bodies of the administration routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, create_model

from tenantd.api.body import Body
from tenantd.domain import OwnLimits, Priority
from tenantd.limits import LIMITS, MOST, Limit
from tenantd.tenancy.tenants import MAX_WEIGHT, MIN_WEIGHT

Weight = Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT)]
Uids = Annotated[list[Annotated[int, Field(ge=0, le=0xFFFFFFFE)]], Field(max_length=1000)]


def _field(limit: Limit) -> Any:
    """A limit in a body: what `limit.check` takes, which OpenAPI cannot say by itself."""
    count: Any = Annotated[int, Field(ge=0, le=MOST)] | Literal["none"] | None
    takes = count if limit.choices is None else limit.own_type
    return Annotated[Any, PlainValidator(limit.check, json_schema_input_type=takes)], Field(
        None, description=limit.help
    )


_LimitFields: Any = create_model(
    "_LimitFields", __base__=Body, **{name: _field(limit) for name, limit in LIMITS.items()}
)


class LimitsBody(_LimitFields):  # its fields are those of `Limits`
    """null takes the default of all tenants, "none" removes the limit, 0 blocks."""

    def given(self) -> dict[str, Any]:
        """The limits that were sent, including null."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class NewTenant(Body):
    """POST /admin/v1/tenants."""

    name: str
    weight: Weight = 1.0
    priority: Priority = Priority.STANDARD
    uids: Uids = Field(default_factory=list)
    adapter: str = ""
    unbilled: bool = False
    allow_special: bool = False
    limits: LimitsBody = LimitsBody()

    def own_limits(self) -> OwnLimits:
        return OwnLimits(**self.limits.given())


class TenantChange(Body):
    """PATCH /admin/v1/tenants/{name}: changes only the fields that are sent."""

    weight: Weight | None = None
    priority: Priority | None = None
    uids: Uids | None = None
    adapter: str | None = None  # "" for none
    unbilled: bool | None = None
    allow_special: bool | None = None
    limits: LimitsBody | None = None

    def changes(self) -> dict[str, Any]:
        """All changes except the limits, which are merged with the existing ones."""
        given: dict[str, Any] = {}
        if self.weight is not None:
            given["weight"] = self.weight
        if self.priority is not None:
            given["priority"] = self.priority
        if self.uids is not None:
            given["uids"] = tuple(self.uids)
        if self.adapter is not None:
            given["adapter"] = self.adapter
        if self.unbilled is not None:
            given["unbilled"] = self.unbilled
        if self.allow_special is not None:
            given["allow_special"] = self.allow_special
        return given


class NewKey(Body):
    """POST /admin/v1/tenants/{name}/keys."""

    label: str = Field("", max_length=64)
