"""Request bodies of the administration routes, and their answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import msgspec
from pydantic import Field, PlainValidator, create_model

from tenantd.api.body import Body
from tenantd.api.openai.shapes import Waiting
from tenantd.domain import TENANT_NAME, CacheUse, OnAnomaly, OwnLimits, Priority, Scope, Tenant, TenantState
from tenantd.errors import InvalidRequest
from tenantd.ledger.findings import Finding
from tenantd.ledger.trail import AuditRecord
from tenantd.limits import LIMITS, MOST, Limit
from tenantd.serving.isolation import IsolationStatus
from tenantd.tenancy.keys import (
    DEFAULT_GRACE_S,
    MAX_GRACE_S,
    MAX_LABEL_CHARACTERS,
    MAX_LIFETIME_S,
    TENANT_SCOPES,
    KeyInfo,
)
from tenantd.tenancy.tenants import MAX_WEIGHT, MIN_WEIGHT
from tenantd.wire.messages import EngineInfo

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


class BillingBody(Body):
    """Whom the invoices of a tenant are addressed to. "" for none; only the address may have several lines."""

    name: str | None = None
    address: str | None = None
    email: str | None = None
    tax_id: str | None = None
    reference: str | None = None

    def given(self) -> dict[str, str]:
        """The fields that were sent."""
        return self.model_dump(exclude_none=True)


class NewTenant(Body):
    """POST /admin/v1/tenants."""

    name: Annotated[str, Field(json_schema_extra={"pattern": f"^{TENANT_NAME.pattern}$"})]
    weight: Weight = 1.0
    priority: Priority = Priority.STANDARD
    uids: Uids = Field(default_factory=list)
    adapter: str = ""
    unbilled: bool = False
    allow_special: bool = False
    on_anomaly: OnAnomaly = OnAnomaly.LOG
    cache: CacheUse = CacheUse.DEFAULT
    system_prompt: str = ""  # put before its chats by the server
    system_in_completions: bool = False  # and before its plain prompts
    billing: BillingBody = BillingBody()
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
    on_anomaly: OnAnomaly | None = None
    cache: CacheUse | None = None
    system_prompt: str | None = None  # "" for none
    system_in_completions: bool | None = None
    billing: BillingBody | None = None
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
        if self.on_anomaly is not None:
            given["on_anomaly"] = self.on_anomaly
        if self.cache is not None:
            given["cache"] = self.cache
        if self.system_prompt is not None:
            given["system_prompt"] = self.system_prompt
        if self.system_in_completions is not None:
            given["system_in_completions"] = self.system_in_completions
        if self.billing is not None:
            given["billing"] = self.billing.given()
        return given


class NewName(Body):
    """POST /admin/v1/tenants/{name}/rename."""

    name: str


class _KeyEnd(Body):
    """When a key ends: after a time, or at a time. Without either it does not."""

    expires_in_s: int | None = Field(None, ge=1, le=MAX_LIFETIME_S)
    expires_micros: int | None = Field(None, ge=0, le=2**63 - 1, description="Microseconds since 1970.")

    def ends_micros(self, now_micros: int) -> int | None:
        """Raises InvalidRequest if both are given."""
        if self.expires_in_s is None:
            return self.expires_micros
        if self.expires_micros is not None:
            raise InvalidRequest("expires_micros: use either this or expires_in_s, not both", param="expires_micros")
        return now_micros + self.expires_in_s * 1_000_000


class NewAdminKey(_KeyEnd):
    """POST /admin/v1/keys."""

    label: str = Field("", max_length=MAX_LABEL_CHARACTERS)


class NewKey(NewAdminKey):
    """POST /admin/v1/tenants/{name}/keys. `scopes` are run and read, or one of them."""

    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))] = Field(
        default_factory=lambda: list(TENANT_SCOPES)
    )


class KeyRotation(_KeyEnd):
    """POST /admin/v1/keys/{key_id}/rotate. The old key ends after `grace_s`; without an end, the new one lasts as long
    as the old one was meant to."""

    grace_s: int = Field(DEFAULT_GRACE_S, ge=0, le=MAX_GRACE_S)


class AuditPruning(Body):
    """POST /admin/v1/audit/prune. `before_micros`: microseconds since 1970."""

    before_micros: int = Field(ge=0, le=2**60)


class RequestPruning(Body):
    """POST /admin/v1/ledger/prune. `before`: a month, such as "2026-09"."""

    before: str = Field(max_length=16)


class AuditMatch(Body):
    """POST /admin/v1/audit/match. Either prompts or responses, up to four ways in which the text may be written. With
    `id`, a removed tenant of this name. Times are microseconds since 1970."""

    tenant: str
    id: int | None = Field(None, ge=1)
    prompts: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list, max_length=4)
    responses: list[str] = Field(default_factory=list, max_length=4)
    since_micros: int | None = Field(None, ge=0, le=2**60)
    until_micros: int | None = Field(None, ge=0, le=2**60)


class Index(TypedDict):
    """Each as "METHOD /path"."""

    routes: list[str]


class AnchorStatus(TypedDict):
    """`age_s`: since the last anchor, None if this process has written none. `trouble` is why the last attempt failed,
    "" if it did not. `mismatches`: how often something was wrong with what had been anchored before."""

    age_s: float | None
    failures: int
    mismatches: int
    trouble: str


class LedgerStatus(TypedDict):
    """`trouble` is why usage cannot be written. While requests are paused, nothing is computed that nobody can bill.
    `anchor` is None unless the audit trail is anchored (`security.anchor`)."""

    healthy: bool
    trouble: str
    wal_bytes: int
    requests_paused: bool
    anchor: AnchorStatus | None


class CacheStatus(TypedDict):
    """How many tenants have a cache, and how much of `host_bytes` their prompts take."""

    tenants: int
    used_bytes: int
    host_bytes: int


class TenantStatus(TypedDict):
    """`usage` is by weight, decayed: who has the least goes first. Who is throttled has an eighth of its weight.
    `cache_bytes` is what its cached prompts take, null without a cache.
    `budget_used_percent` is that of the budget nearest to its end, null without budgets."""

    name: str
    state: TenantState
    weight: float
    throttled: bool
    priority: Priority
    running: int
    paused: int
    waiting: int
    max_queued: int | None
    usage: float
    cache_bytes: int | None
    budget_used_percent: int | None


class Status(TypedDict):
    """The daemon at this moment. `engine` is what is loaded, null before the first time. `unwatched_prompts`: how many
    the anomaly watch did not see, because too many of their tenant waited."""

    state: str
    progress: float
    reason: str
    engine: EngineInfo | None
    engine_pid: int | None
    engine_restarts: int
    engine_busy_micros: int
    engine_unbilled_micros: int
    swaps: int
    recomputes: int
    running: int
    paused: int
    waiting: int
    ledger: LedgerStatus
    isolation: IsolationStatus | None
    cache: CacheStatus
    unwatched_prompts: int
    is_checking_isolation: bool
    tenants: list[TenantStatus]
    version: str
    pid: int
    uptime_s: float
    socket: str
    state_dir: str
    model: str
    queue: list[Waiting]


class OneTenant(TypedDict):
    """`limits` are the tenant's own, `effective_limits` those in effect."""

    tenant: Tenant


class ClearedAnomalies(OneTenant):
    """The tenant, and how many of its anomalies were not cleared before."""

    cleared: int


ListedTenant = msgspec.defstruct(
    "ListedTenant",
    [
        *((field.encode_name, field.type) for field in msgspec.structs.fields(Tenant) if field.name != "system_prompt"),
        ("system_prompt_bytes", int),
    ],
)
"""A tenant without the text of its system prompt, which may be long."""


def listed(tenant: Tenant) -> dict[str, Any]:
    """A `ListedTenant`. A long system prompt takes tens of microseconds."""
    fields = {field.encode_name: getattr(tenant, field.name) for field in msgspec.structs.fields(Tenant)}
    text = fields.pop("system_prompt")
    return {**fields, "system_prompt_bytes": len(text.encode())}


class Tenants(TypedDict):
    """All but those that were removed, each with the length of its system prompt instead of the text."""

    tenants: list[ListedTenant]  # type: ignore[valid-type]


class AddedTenant(TypedDict):
    """The tenant, and the secret of its first key, which is shown only here."""

    tenant: Tenant
    key: str


class RemovedTenant(TypedDict):
    """Its name."""

    removed: str


class ForgottenTenant(TypedDict):
    """`had_key`: its prompts and answers could be matched with hashes until now. Unless it was removed, it has a new
    key."""

    id: int
    name: str
    had_key: bool
    is_removed: bool


class PrunedAudit(TypedDict):
    """How many entries were deleted, and number and hash of the last one that is gone, in all."""

    entries: int
    through: int
    hash: str


class AuditPage(TypedDict):
    """`next` is where to go on, null at the end. `head` is the number of the newest entry when the search began."""

    entries: list[AuditRecord]
    next: int | None
    head: int


class Keys(TypedDict):
    """Of one tenant, or those that administer; including those that were revoked or have expired."""

    keys: list[KeyInfo]


class OneKey(TypedDict):
    """A key without its secret."""

    key: KeyInfo


class CreatedKey(OneKey):
    """The key, and its secret, which is shown only here."""

    secret: str


class RotatedKey(CreatedKey):
    """The new key and its secret, and the old key."""

    replaced: KeyInfo


FoundAnomaly = msgspec.defstruct(
    "FoundAnomaly",
    [*((field.name, field.type) for field in msgspec.structs.fields(Finding)), ("reasons", list[str])],
)
"""What the anomaly watch found, and its deviations in words."""


class Anomalies(TypedDict):
    """The newest first."""

    anomalies: list[FoundAnomaly]  # type: ignore[valid-type]
