"""What a tenant is told of itself. Nothing in it depends on another tenant, or names a path of this machine."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, get_args

import msgspec

from tenantd.domain import BudgetUnit, Limits, TenantState
from tenantd.ledger.grouped import Grouping, UsageGroup
from tenantd.ledger.invoices import Invoice
from tenantd.ledger.paperwork import TenantInvoice
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.reports import TenantUsage
from tenantd.periods import Period
from tenantd.printable import without_paths
from tenantd.tenancy.budget_accounts import BudgetState

_OF_THE_DAEMON = {"tenant", "tenant_id", "uid", "adapter", "price_id", "unbilled"}
"""Fields of records that say nothing to the tenant, or are not its business."""

GROUPINGS = (Grouping.DAY, Grouping.HOUR, Grouping.KEY, Grouping.MODEL)
_GROUP = [field for field in msgspec.structs.fields(UsageGroup) if field.name not in _OF_THE_DAEMON]
_REQUEST = [field for field in msgspec.structs.fields(RequestRecord) if field.name not in _OF_THE_DAEMON]
_USAGE = [field for field in msgspec.structs.fields(TenantUsage) if field.name not in _OF_THE_DAEMON]

OwnRequest = msgspec.defstruct(
    "OwnRequest",
    [
        *((field.name, field.type) for field in _REQUEST),
        ("list_nanos", int),
        ("cost_nanos", int),
        ("live_state", Literal["waiting", "running", "paused"] | None),
    ],
)
"""A request: what it used, how long it took, what it is billed (`cost_nanos`, of `list_nanos`), and where it is now if
it is live. Times are in microseconds: `queue_micros` until it had a slot, `prefill_micros` from then to its first
token; the others since its creation. `kv_token_micros`: tokens in slots times how long they were there. `swaps`: how
often it gave its slot up."""

OwnTotal = msgspec.defstruct(
    "OwnTotal", [(each.name, each.type, None if type(None) in get_args(each.type) else 0) for each in _USAGE]
)
"""Requests that ended in a period, and those created in it that still run, with their usage so far. Percentiles over
more than an hour are within 2%."""


OwnGroup = msgspec.defstruct("OwnGroup", [(field.name, field.type) for field in _GROUP])
"""Requests that ended in a day or an hour of the billing time zone, or with one key ("" is none, `label` is the key's)
or model. What is billed, `cost_nanos`, is `list_nanos` less `free_nanos` (free quotas) and `waived_nanos` (beyond
budgets)."""


class OwnGroupedUsage(TypedDict):
    """A period, in microseconds since 1970, and what the tenant used in it, in groups."""

    since_micros: int
    until_micros: int
    currency: str
    timezone: str
    by: Grouping
    groups: list[OwnGroup]  # type: ignore[valid-type]


class OwnRequestPage(TypedDict):
    """The newest first. `next` is the value of `after` for those that come then, null at the end."""

    requests: list[OwnRequest]  # type: ignore[valid-type]
    next: str | None


class OneOwnRequest(TypedDict):
    """A request of the tenant."""

    request: OwnRequest  # type: ignore[valid-type]


class CancelledOwnRequest(TypedDict):
    """Its id."""

    cancelled: str


class Identity(TypedDict):
    """Whether the asker administers, and the tenants that it can act for, by its key or user. Administrators can also
    name any other."""

    administers: bool
    tenants: list[str]


class OwnUsage(TypedDict):
    """A period, in microseconds since 1970, and what the tenant used in it."""

    since_micros: int
    until_micros: int
    timezone: str
    currency: str
    total: OwnTotal  # type: ignore[valid-type]


class Rate(TypedDict):
    """A limit per minute. `reset_micros`: time until all of it is available again."""

    limit: int
    remaining: int
    reset_micros: int


class OwnRates(TypedDict):
    """Limits per minute; null if there is none."""

    requests: Rate | None
    tokens: Rate | None


class OwnBudget(TypedDict):
    """A budget in its current period. `amount`, `used` and the like are billionths of the currency, tokens, or
    microseconds of engine time; `amount` is without what was `topped_up`. `reserved` is held for requests that were
    admitted. `key_id` is null if it is for all keys together."""

    key_id: str | None
    period: Period
    unit: BudgetUnit
    amount: int
    topped_up: int
    used: int
    reserved: int
    left: int
    since_micros: int
    resets_micros: int


class OwnLimits(TypedDict):
    """The limits in force, null for no limit, and what is left of them. `running` are requests with a token, `waiting`
    those without one. `budgets` are those that requests of this key, or of any, count in."""

    tenant: str
    state: TenantState
    limits: Limits
    rates: OwnRates
    budgets: list[OwnBudget]
    running: int
    waiting: int


class LiveCounts(TypedDict):
    """A tenant at this moment. `running` are requests with a token and a slot, `paused` those that gave their slot up,
    `waiting` those without a token: of these, `computing_prompts` have a slot, and `held` wait for a limit per minute.
    Tokens and engine time are what its requests were given since the daemon started. `budgets` are the eight nearest
    to their ends."""

    name: str
    state: TenantState
    running: int
    paused: int
    waiting: int
    computing_prompts: int
    held: int
    limits: Limits
    rates: OwnRates
    budgets: list[OwnBudget]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    engine_micros: int


class LiveRequest(TypedDict):
    """A request that runs or waits. Of its prompt, `prompt_tokens` were computed and `cached_tokens` were cached.
    `position` and the waits are null unless it is one of the next to get a token: `estimated_wait_ms` until its first,
    for nine of ten between `estimated_wait_low_ms` and `estimated_wait_high_ms`."""

    id: str
    client_request_id: str
    tenant: str
    state: Literal["waiting", "running", "paused"]
    has_slot: bool
    age_ms: int
    first_token_micros: int | None
    prompt_length_tokens: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    max_tokens: int
    engine_micros: int
    position: int | None
    estimated_wait_ms: int | None
    estimated_wait_low_ms: int | None
    estimated_wait_high_ms: int | None


class OwnLive(TypedDict):
    """The tenant at this moment, and the first 200 of its requests that run or wait. `state` and `progress` are those
    of /readyz."""

    state: str
    progress: float
    tenant: LiveCounts
    requests: list[LiveRequest]


class OwnHistory(TypedDict):
    """What the tenant was given, in intervals of `interval_s` within the last hour. `ended_micros`: when each ended, in
    microseconds since 1970. `running` are requests with a token, `waiting` those without one, both at the end of the
    interval; `first_token_micros` is the longest time to a first token in it, null if there was none."""

    interval_s: int
    ended_micros: list[int]
    prompt_tokens: list[int]
    generated_tokens: list[int]
    running: list[int]
    waiting: list[int]
    first_token_micros: list[int | None]


class OwnInvoice(TypedDict):
    """The tenant's invoice of a month, a draft unless it has a number; null if its requests are on none. `open`: it can
    still grow."""

    month: str
    timezone: str
    since_micros: int
    until_micros: int
    currency: str
    open: bool
    invoice: TenantInvoice | None


def live_counts(counts: dict[str, Any]) -> dict[str, Any]:
    """A `LiveCounts`, or more, of what `Moment` tells of a tenant."""
    return {**counts, "budgets": [own_budget(state) for state in counts["budgets"]]}


def own_request(row: RequestRecord, live_state: str | None) -> dict[str, Any]:
    """An `OwnRequest`."""
    fields = {field.name: getattr(row, field.name) for field in _REQUEST}
    amounts = {"list_nanos": row.list_nanos, "cost_nanos": row.cost_nanos, "live_state": live_state}
    return {**fields, "error": without_paths(row.error), **amounts}


def own_total(found: TenantUsage | None) -> Any:
    """An `OwnTotal`, of nothing if there was no usage."""
    return OwnTotal() if found is None else OwnTotal(**{field.name: getattr(found, field.name) for field in _USAGE})


def own_group(found: UsageGroup) -> Any:
    """An `OwnGroup`."""
    return OwnGroup(**{field.name: getattr(found, field.name) for field in _GROUP})


def own_invoice(found: Invoice) -> OwnInvoice:
    """Without what an `Invoice` also tells: how long the audit trail is."""
    return {
        "month": found.month,
        "timezone": found.timezone,
        "since_micros": found.since_micros,
        "until_micros": found.until_micros,
        "currency": found.currency,
        "open": found.open,
        "invoice": next(iter(found.tenants), None),
    }


def own_budget(state: BudgetState) -> OwnBudget:
    """What a tenant sees of a budget."""
    budget = state.budget
    return {
        "key_id": budget.key_id or None,
        "period": budget.period,
        "unit": budget.unit,
        "amount": budget.amount,
        "topped_up": state.topped_up,
        "used": state.used,
        "reserved": state.reserved,
        "left": state.left,
        "since_micros": state.since_micros,
        "resets_micros": state.resets_micros,
    }
