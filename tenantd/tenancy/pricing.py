"""Price lists as administrators set and see them: a tenant is named, and a date is text in the billing time zone."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from sqlite3 import Connection
from typing import Any

from tenantd import clock
from tenantd.actions import Action
from tenantd.domain import Actor
from tenantd.errors import LedgerUnavailable, QueueFull
from tenantd.events import Administered, Events
from tenantd.ledger.audit import Entry, append
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.price_dates import begin_micros
from tenantd.ledger.price_lists import (
    AMOUNTS,
    ListedPrices,
    PriceChange,
    PriceState,
    listed_prices,
    set_prices,
    shown,
    tenants_with_own,
)
from tenantd.ledger.records import PriceList
from tenantd.tenancy.recorded import ADMINISTERED, by, of_actor
from tenantd.tenancy.tenants import get_tenant, tenant_meant


class Pricing:
    """The use cases. All raise LedgerUnavailable, and NotFound for a tenant that does not exist."""

    def __init__(
        self, ledger: Ledger, events: Events, on_change: Callable[[], Awaitable[None]], *, records: bool
    ) -> None:
        """`on_change` is called after each change, and tries again by itself. `records`: whether there is an audit
        trail."""
        self._ledger = ledger
        self._events = events
        self._on_change = on_change
        self._records = records

    async def list_prices(self, tenant: str | None) -> list[ListedPrices]:
        """Every list, or those of all and of one tenant, which may have been removed."""
        now_micros = clock.now_micros()

        def read(conn: Connection) -> list[ListedPrices]:
            return listed_prices(conn, now_micros, None if tenant is None else tenant_meant(conn, tenant))

        return await self._ledger.read(read)

    async def set_prices(
        self, actor: Actor, tenant: str | None, since: str, amounts: Mapping[str, int], *, like_all: bool = False
    ) -> PriceChange:
        """Set prices from a date on (`price_lists.set_prices`). Raises InvalidRequest, also for a date in the past.

        They are set when the ledger writes them: "now" is then, and a date must not have passed by then.
        """
        since_micros = begin_micros(since, self._ledger.timezone, clock.now_micros())

        def work(conn: Connection) -> PriceChange:
            now_micros = clock.now_micros()  # not before: what was settled while this waited has the prices until now
            if since_micros is not None:
                begin_micros(since, self._ledger.timezone, now_micros)
            number = None if tenant is None else get_tenant(conn, tenant).id
            before, after = set_prices(conn, number, since_micros, amounts, now_micros, like_all=like_all)
            is_changed = before != after
            if is_changed and self._records:
                append(conn, [_entry(actor, now_micros, number, tenant, before, after)])
            listed = {one.id: one for one in listed_prices(conn, now_micros, number)}
            at_micros = since_micros or now_micros
            own = [] if tenant is not None else tenants_with_own(conn, at_micros)
            whose = None if before.tenant_id is None else tenant
            return PriceChange(
                before=listed.get(before.id) or shown(before, whose, PriceState.PAST, at_micros),
                after=listed[after.id],
                is_changed=is_changed,
                own_tenants=own,
            )

        change = await self._ledger.write(work)
        if change.is_changed:
            with contextlib.suppress(LedgerUnavailable, QueueFull):  # the prices are in force; budgets follow
                await self._on_change()
            self._announce(actor, change)
        return change

    def _announce(self, actor: Actor, change: PriceChange) -> None:
        before, after = change.before, change.after
        self._events.announce(
            Administered(
                action=Action.PRICES_SET,
                **of_actor(actor),
                tenant=after.tenant,
                tenant_id=after.tenant_id,
                fields=tuple(name for name in AMOUNTS if getattr(before, name) != getattr(after, name)),
            )
        )


def _entry(
    actor: Actor, at_micros: int, tenant_id: int | None, tenant: str | None, before: PriceList, after: PriceList
) -> Entry:
    """What the audit trail says of new prices: the amounts that differ, from when, and whose they are."""

    def part(prices: PriceList) -> dict[str, Any]:
        differing = {name: getattr(prices, name) for name in AMOUNTS if getattr(before, name) != getattr(after, name)}
        like_all = prices.tenant_id is None or bool(prices.follows_general)
        own = {} if tenant_id is None else {"like_all": like_all}
        return {"price_id": prices.id, **own, **differing}

    detail = {
        "action": Action.PRICES_SET.value,
        "by": by(actor),
        "since_micros": after.effective_micros,
        "before": part(before),
        "after": part(after),
    }
    return Entry(at_micros=at_micros, event=ADMINISTERED, tenant_id=tenant_id, tenant=tenant, detail=detail)
