"""The answers of the routes that report figures."""

from __future__ import annotations

from typing import TypedDict

import msgspec

from tenantd.ledger.evenness import Evenness
from tenantd.ledger.grouped import Grouping, UsageGroup
from tenantd.ledger.reports import TenantUsage
from tenantd.ledger.window import Figures, TenantFigures
from tenantd.limits import Limits


class UsageReport(TypedDict):
    """A period, in microseconds since 1970, and what each tenant used in it."""

    since_micros: int
    until_micros: int
    timezone: str
    currency: str
    tenants: list[TenantUsage]


class GroupedUsage(TypedDict):
    """The same by day, hour, …; only groups in which something was used. Days and hours are of `timezone`."""

    by: Grouping
    since_micros: int
    until_micros: int
    timezone: str
    currency: str
    groups: list[UsageGroup]


ListedFigures = msgspec.defstruct(
    "ListedFigures",
    [
        *((field.name, field.type) for field in msgspec.structs.fields(TenantFigures)),
        ("running", int),
        ("paused", int),
        ("waiting", int),
        ("limits", Limits | None),
        ("requests_last_minute", int | None),
        ("tokens_last_minute", int | None),
        ("refused", dict[str, int]),
    ],
)
"""The figures of a tenant, and how it stands now: its requests, its limits in force, what was used of those per minute
(None without such a limit), and how often it was refused since the daemon started, by cause. `limits` is
None for a removed tenant."""


class TenantHistory(TypedDict):
    """What a tenant was given in each interval. `share` is its part of what all were given, as the scheduler counts it;
    `entitled_share` the part that it is entitled to: by weight next to the others that have work, at least its reserved
    slots, and at most what it can use. Null without work."""

    tenant: str
    share: list[float | None]
    entitled_share: list[float | None]
    prompt_tokens: list[int]
    generated_tokens: list[int]
    running: list[int]
    waiting: list[int]
    first_token_micros: list[int | None]


class History(TypedDict):
    """Intervals of `interval_s` within the last hour, and the tenants that were given most in it. A tenant's own
    `/v1/history` explains the rest."""

    interval_s: int
    ended_micros: list[int]
    tenants: list[TenantHistory]


class Stats(TypedDict):
    """Of requests that ended from `since_micros` until before `until_micros` (microseconds since 1970). `total` is over
    the tenants listed. Percentiles are exact if `is_exact`, else within 2%. `evenness` is of all tenants, and shares
    are of what all used."""

    since_micros: int
    until_micros: int
    timezone: str
    currency: str
    is_exact: bool
    total: Figures
    evenness: Evenness
    tenants: list[ListedFigures]  # type: ignore[valid-type]
