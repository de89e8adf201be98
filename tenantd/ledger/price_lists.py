"""Setting and listing price lists. A list applies from a date until that of the next one of its tenant, or of all.

The past is never edited: a list begins now or later. Of two with one date, the one that was set last applies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd.errors import InvalidRequest
from tenantd.ledger.prices import all_prices, insert_prices, prices_at
from tenantd.ledger.records import PriceList

AMOUNTS: Final = (
    "input_nanos_per_million",
    "cached_nanos_per_million",
    "output_nanos_per_million",
    "engine_hour_nanos",
    "minimum_nanos",
    "free_prompt_tokens",
    "free_completion_tokens",
)
"""What can be set."""


class PriceState(StrEnum):
    """Whether a list applies."""

    PAST = "past"
    IN_FORCE = "in_force"
    FUTURE = "future"
    REPLACED = "replaced"  # by another one with the same date


class ListedPrices(msgspec.Struct, frozen=True, kw_only=True):
    """A list, and from when until before when it applies (microseconds since 1970; `until_micros` is null if it has no
    end yet). Amounts are in billionths (1e-9) of the currency unit.

    `tenant` is null for the list of all tenants without their own. A tenant with `like_all` has none from then on, and
    the amounts are those of all at the time it was set. `is_configured`: it was read from the configuration file.
    """

    id: int
    tenant: str | None
    tenant_id: int | None
    state: PriceState
    effective_micros: int
    until_micros: int | None
    currency: str
    input_nanos_per_million: int
    cached_nanos_per_million: int
    output_nanos_per_million: int
    engine_hour_nanos: int
    minimum_nanos: int
    free_prompt_tokens: int
    free_completion_tokens: int
    like_all: bool
    is_configured: bool
    set_micros: int


class PriceChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of prices: what would have applied at its date, and what applies now."""

    before: ListedPrices
    after: ListedPrices
    is_changed: bool  # false if it was so already
    own_tenants: list[str]  # with their own prices then, which a list for all does not change


def set_prices(
    conn: Connection,
    tenant_id: int | None,
    since_micros: int | None,
    amounts: Mapping[str, int],
    now_micros: int,
    *,
    like_all: bool = False,
) -> tuple[PriceList, PriceList]:
    """Set the prices of a tenant, or of all without their own, from a moment on; None is now.

    Those of `AMOUNTS` that are not given are taken from the list in force then. `like_all` ends a tenant's own. Returns
    what applied then before, and what applies now; both are the same if nothing changed. Raises InvalidRequest.
    """
    effective_micros = now_micros if since_micros is None else since_micros
    before = prices_at(conn, effective_micros, tenant_id)
    if like_all:
        if before.tenant_id is None:
            return before, before
        amounts = {name: getattr(prices_at(conn, effective_micros), name) for name in AMOUNTS}
    after = msgspec.structs.replace(
        before,
        tenant_id=tenant_id,
        effective_micros=effective_micros,
        follows_general=int(like_all),
        is_configured=0,
        set_micros=now_micros,
        **amounts,
    )
    is_said = since_micros is None or before.effective_micros == effective_micros  # another date may still be needed
    if is_said and before.tenant_id == tenant_id and not like_all and _same_amounts(before, after):
        return before, before
    if after.minimum_nanos < 0 or min(getattr(after, name) for name in AMOUNTS) < 0:
        raise InvalidRequest("prices cannot be negative")
    inserted = insert_prices(conn, after)
    if since_micros is None:
        for later_micros in _set_before_the_clock_went_back(conn, tenant_id, now_micros, inserted.id):
            insert_prices(conn, msgspec.structs.replace(after, effective_micros=later_micros))
    return before, inserted


def _same_amounts(one: PriceList, other: PriceList) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in AMOUNTS)


def _set_before_the_clock_went_back(
    conn: Connection, tenant_id: int | None, now_micros: int, before_id: int
) -> list[int]:
    """The dates of lists that were set for a "now" that is still to come, because the clock was ahead.

    What is set from now on must not end when the clock gets there.
    """
    rows = conn.execute(
        """SELECT DISTINCT effective_micros FROM prices
        WHERE tenant_id IS ? AND effective_micros > ? AND effective_micros <= set_micros AND id < ?""",
        (tenant_id, now_micros, before_id),
    )
    return [int(row[0]) for row in rows]


def listed_prices(conn: Connection, now_micros: int, tenant_id: int | None = None) -> list[ListedPrices]:
    """Every list, those for all tenants first, each by date. With `tenant_id`, only those and its own."""
    where = "id = :tenant" if tenant_id else "state <> 'removed' AND id IN (SELECT tenant_id FROM prices)"
    names = dict(conn.execute(f"SELECT id, name FROM tenants WHERE {where}", {"tenant": tenant_id}))
    groups: dict[int | None, list[PriceList]] = {}
    for prices in all_prices(conn, tenant_id).values():
        if prices.tenant_id is None or prices.tenant_id in names:
            groups.setdefault(prices.tenant_id, []).append(prices)
    ordered = sorted(groups.items(), key=lambda group: (group[0] is not None, names.get(group[0], ""), group[0] or 0))
    return [one for number, group in ordered for one in _group(group, names.get(number), now_micros)]


def _group(group: Sequence[PriceList], tenant: str | None, now_micros: int) -> list[ListedPrices]:
    """The lists of one tenant, or of all."""
    by_date = sorted(group, key=lambda prices: (prices.effective_micros, prices.id))
    newest = {prices.effective_micros: prices for prices in by_date}  # the last of each date
    dates = list(newest)
    begun = [date for date in dates if date <= now_micros]
    current = begun[-1] if begun else None
    if current is None and by_date[0].tenant_id is None:  # before the first, the first
        current = dates[0]
    ends = dict(zip(dates, [*dates[1:], None], strict=True))
    found = []
    for prices in by_date:
        date = prices.effective_micros
        state = PriceState.PAST if date <= now_micros else PriceState.FUTURE
        if newest[date] is not prices:
            state = PriceState.REPLACED
        elif date == current:
            state = PriceState.IN_FORCE
        found.append(shown(prices, tenant, state, ends[date]))
    return found


def shown(prices: PriceList, tenant: str | None, state: PriceState, until_micros: int | None) -> ListedPrices:
    """A list as reports have it."""
    fields: dict[str, Any] = msgspec.structs.asdict(prices)
    return ListedPrices(
        tenant=tenant,
        state=state,
        until_micros=until_micros,
        like_all=bool(fields.pop("follows_general")),
        is_configured=bool(fields.pop("is_configured")),
        **fields,
    )


def tenants_with_own(conn: Connection, at_micros: int) -> list[str]:
    """Names of tenants, not removed, that have their own prices at a moment."""
    rows = conn.execute(
        """SELECT name FROM tenants WHERE state <> 'removed' AND id IN (SELECT tenant_id FROM prices) AND NOT coalesce(
        (SELECT follows_general FROM prices WHERE tenant_id = tenants.id AND effective_micros <= ?
        ORDER BY effective_micros DESC, prices.id DESC LIMIT 1), 1) ORDER BY name""",
        (at_micros,),
    )
    return [str(row[0]) for row in rows]
