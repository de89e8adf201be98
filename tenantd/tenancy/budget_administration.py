"""What administrators can do with budgets: named use cases, each with its actor.

As in `tenantd.tenancy.administration`, each is one transaction with its entries in the audit trail, effective before it
returns, and announced. Lowered below what is used, a budget is used up, and what runs on it ends at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sqlite3 import Connection
from typing import Any, Protocol

from tenantd import clock
from tenantd.actions import Action
from tenantd.budget_events import BudgetReached
from tenantd.domain import Actor, BudgetUnit
from tenantd.errors import LedgerUnavailable, NotFound, QueueFull
from tenantd.events import Administered, Events
from tenantd.ledger.audit import Entry, append
from tenantd.ledger.ledger import Ledger
from tenantd.periods import Period
from tenantd.tenancy import budget_rows as store
from tenantd.tenancy.budget_rows import BudgetInfo, Changed, Wanted
from tenantd.tenancy.quantities import budget_name
from tenantd.tenancy.recorded import ADMINISTERED, by, of_actor
from tenantd.tenancy.tenants import get_tenant


class Budgeted(Protocol):
    """The running daemon, in which budgets take effect."""

    async def budgets_changed(self) -> None:
        """Read the budgets again, and end what may not run. Raises LedgerUnavailable or QueueFull, and then does it as
        soon as it can."""


class BudgetAdministration:
    """The use cases. All raise LedgerUnavailable; those that name a tenant or key raise NotFound."""

    def __init__(self, ledger: Ledger, running: Budgeted, events: Events, *, records: bool = True) -> None:
        """`records`: whether there is an audit trail."""
        self._ledger = ledger
        self._running = running
        self._events = events
        self._records = records

    async def list_budgets(self, name: str | None = None) -> list[BudgetInfo]:
        """The budgets of a tenant and its keys, or of all tenants."""
        now_micros, timezone = clock.now_micros(), self._ledger.timezone

        def work(conn: Connection) -> list[BudgetInfo]:
            number = None if name is None else get_tenant(conn, name).id
            return store.list_budgets(conn, now_micros, timezone, number)

        return await self._ledger.read(work)

    async def set_budgets(
        self, actor: Actor, name: str, key_id: str | None, wanted: Sequence[Wanted], warn: Sequence[int] | None
    ) -> list[Changed]:
        """Set, change or remove budgets of a tenant, or of one of its keys.

        `warn` None keeps the levels of those that exist. Without any `wanted`, all get the new levels. Raises
        InvalidRequest, and Conflict if the key has ended.
        """
        levels = None if warn is None else store.checked_levels(warn)
        now_micros, timezone = clock.now_micros(), self._ledger.timezone

        def work(conn: Connection) -> list[Changed]:
            tenant = get_tenant(conn, name)
            key = None if key_id is None else store.check_key(conn, tenant, key_id, now_micros)
            what = wanted or [
                Wanted(one.period, one.unit, one.amount)
                for one in store.list_budgets(conn, now_micros, timezone, tenant.id)
                if one.key_id == key
            ]
            if not what:
                raise _no_budget(name, key_id)
            return [store.set_budget(conn, tenant, key, each, levels, now_micros, timezone) for each in what]

        return await self._change(actor, Action.BUDGET_SET, work, {})

    async def top_up(
        self, actor: Actor, name: str, key_id: str | None, period: Period, unit: BudgetUnit, amount: int, reason: str
    ) -> Changed:
        """Add to a budget, in its current period only. Raises InvalidRequest, Conflict."""
        now_micros, timezone = clock.now_micros(), self._ledger.timezone

        def work(conn: Connection) -> list[Changed]:
            tenant = get_tenant(conn, name)
            key = None if key_id is None else store.check_key(conn, tenant, key_id, now_micros)
            found = store.find_budget(conn, tenant, key, period, unit, now_micros, timezone)
            if found is None:
                raise _no_budget(name, key_id, budget_name(period, unit))
            return [store.top_up(conn, found, amount, reason, actor_text(actor), now_micros, timezone)]

        [changed] = await self._change(actor, Action.BUDGET_TOPPED_UP, work, {"reason": reason})
        return changed

    async def remove_budgets(
        self, actor: Actor, name: str, key_id: str | None, period: Period | None, unit: BudgetUnit | None
    ) -> list[Changed]:
        """Remove the budgets of a tenant, or of one of its keys, of a period and unit if they are given. Those of keys
        stay when those of their tenant are removed."""
        now_micros, timezone = clock.now_micros(), self._ledger.timezone

        def work(conn: Connection) -> list[Changed]:
            tenant = get_tenant(conn, name)
            key = None if key_id is None else store.check_key(conn, tenant, key_id, now_micros)
            found = [
                one
                for one in store.list_budgets(conn, now_micros, timezone, tenant.id)
                if one.key_id == key and period in (None, one.period) and unit in (None, one.unit)
            ]
            if not found:
                raise _no_budget(name, key_id)
            gone = [Wanted(one.period, one.unit, None) for one in found]
            return [store.set_budget(conn, tenant, key, each, None, now_micros, timezone) for each in gone]

        return await self._change(actor, Action.BUDGET_REMOVED, work, {})

    # -- shared

    async def _change(
        self, actor: Actor, action: Action, work: Callable[[Connection], list[Changed]], more: dict[str, Any]
    ) -> list[Changed]:
        def recorded(conn: Connection) -> list[Changed]:
            done = [each for each in work(conn) if each.before is not None or each.after is not None]
            if self._records:
                append(conn, [_entry(actor, _action(action, each), each, more) for each in done])
            return done

        done = await self._ledger.write(recorded)
        try:
            await self._running.budgets_changed()
        except (LedgerUnavailable, QueueFull) as e:
            raise LedgerUnavailable(
                f"the change is committed, and takes effect as soon as the ledger can be read: {e.message}"
            ) from e
        finally:
            for each in done:
                self._announce(actor, _action(action, each), each)
        return done

    def _announce(self, actor: Actor, action: Action, changed: Changed) -> None:
        one = _subject(changed)
        self._events.announce(
            Administered(
                action=action,
                **of_actor(actor),
                tenant=one.tenant,
                tenant_id=one.tenant_id,
                key_id=one.key_id,
                fields=tuple(_differing(changed)),
            )
        )
        if changed.level is not None:
            self._events.announce(
                BudgetReached(
                    budget_id=one.id,
                    tenant=one.tenant,
                    tenant_id=one.tenant_id,
                    key_id=one.key_id,
                    period=one.period,
                    unit=one.unit,
                    level=changed.level,
                    used=one.used,
                    cap=one.cap,
                    since_micros=one.since_micros,
                    resets_micros=one.resets_micros,
                )
            )


def actor_text(actor: Actor) -> str:
    """Who acts, in a word: the key that was shown, or the user."""
    if actor.part is not None:
        return actor.part.value
    if actor.key_id is not None:
        return actor.key_id
    return "unknown" if actor.uid is None else f"uid {actor.uid}"


def _action(action: Action, changed: Changed) -> Action:
    """A budget that is set to nothing is removed."""
    return Action.BUDGET_REMOVED if changed.after is None else action


def _subject(changed: Changed) -> BudgetInfo:
    one = changed.after or changed.before
    assert one is not None, "a change is of something"
    return one


def _shown(one: BudgetInfo | None) -> dict[str, Any] | None:
    """What an entry shows of a budget, in its unit."""
    if one is None:
        return None
    return {"amount": one.amount, "topped_up": one.topped_up, "warn": list(one.warn)}


def _differing(changed: Changed) -> list[str]:
    before, after = _shown(changed.before), _shown(changed.after)
    return [] if before is None or after is None else [name for name in after if before[name] != after[name]]


def _entry(actor: Actor, action: Action, changed: Changed, more: dict[str, Any]) -> Entry:
    """The entry of a change, for the transaction that makes it. Of one that was changed, only what differs is shown."""
    one, before, after = _subject(changed), _shown(changed.before), _shown(changed.after)
    if before is not None and after is not None:
        names = _differing(changed)
        before, after = ({name: shown[name] for name in names} for shown in (before, after))
    detail: dict[str, Any] = {"action": action.value, "by": by(actor), "before": before, "after": after, **more}
    detail["budget"] = {"id": one.id, "period": one.period.value, "unit": one.unit.value}
    if one.key_id is not None:
        detail["key_id"] = one.key_id
    return Entry(
        at_micros=clock.now_micros(),
        event=ADMINISTERED,
        tenant_id=one.tenant_id,
        tenant=one.tenant,
        request_id=None,
        detail=detail,
    )


def _no_budget(name: str, key_id: str | None, which: str = "") -> NotFound:
    whose = f"tenant {name}" if key_id is None else f"key {key_id} of {name}"
    return NotFound(f"{whose} has no {f'{which} ' if which else ''}budget; to list them: tenantctl budget list")
