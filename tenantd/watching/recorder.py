"""Turns events into entries of the audit trail. The ledger's thread writes them.

What changes a row is recorded in the transaction that changes it, elsewhere: requests as they enter and are answered
(`tenantd.serving.entries`), and administration (`tenantd.tenancy.recorded`).

Whoever is refused can send more requests a second than the trail should have entries. So refusals are counted: one
entry for each tenant and cause, once a second. While nothing can be written, it waits and its count grows.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any, Final

import msgspec

from tenantd.budget_events import BudgetReached
from tenantd.clock import now_micros
from tenantd.config import SECRET_KEYS, Config
from tenantd.domain import NOBODY, Actor
from tenantd.events import (
    Action,
    Administered,
    AnomalyFound,
    BindingBroken,
    CleanedUp,
    EngineLost,
    EngineStarted,
    Event,
    Events,
    IsolationChecked,
    KeyFirstUsed,
    Refused,
    Started,
)
from tenantd.ledger.audit import Entry
from tenantd.ledger.ledger import Ledger
from tenantd.tenancy.recorded import ADMINISTERED, by

INTERVAL_S: Final = 1.0
MOST_COUNTED: Final = 10_000
"""Maximum tenants and causes counted apart; the rest count as those of an unknown tenant."""
MOST_NAMED: Final = 8
"""Maximum keys, users and addresses that an entry on refusals names."""
PORTION: Final = 100
"""Refusals recorded in one turn of the event loop, about a millisecond."""
_NAMES: Final[dict[type[Event], str]] = {
    Started: "resources",
    CleanedUp: "cleaned_up",
    EngineStarted: "engine_started",
    EngineLost: "engine_lost",
    KeyFirstUsed: "key_first_used",
    AnomalyFound: "anomaly_found",
    IsolationChecked: "isolation_checked",
    BindingBroken: "binding_broken",
    BudgetReached: "budget_reached",
}
"""Events that are recorded as they are, and under which name."""
REFUSED: Final = "refused"
WITHOUT_ROW: Final = (Action.REQUEST_CANCELLED, Action.PAGE_OPENED)
"""Actions that change nothing in the ledger, so nothing else records them."""
RECORDED: Final = frozenset({*_NAMES.values(), REFUSED})
_IN_COLUMNS: Final = ("event", "at_micros", "tenant_id", "tenant", "request_id")
Subject = tuple[int | None, str | None]  # id and name of a tenant


class _Refusals:
    """Refusals of one tenant with one cause, since the last entry."""

    __slots__ = ("addresses", "count", "first_micros", "http_status", "keys", "last_micros", "uids")

    def __init__(self, event: Refused) -> None:
        self.count = 0
        self.first_micros = self.last_micros = event.at_micros
        self.http_status = event.http_status
        self.keys: set[str] = set()
        self.uids: set[int] = set()
        self.addresses: set[str] = set()

    def add(self, event: Refused) -> None:
        self.count += 1
        self.last_micros = event.at_micros
        if event.key_id is not None and len(self.keys) < MOST_NAMED:
            self.keys.add(event.key_id)
        if event.uid is not None and len(self.uids) < MOST_NAMED:
            self.uids.add(event.uid)
        if event.address is not None and len(self.addresses) < MOST_NAMED:
            self.addresses.add(event.address)

    def entry(self, subject: Subject, cause: str) -> Entry:
        detail: dict[str, Any] = {
            "cause": cause,
            "http_status": self.http_status,
            "count": self.count,
            "until_micros": self.last_micros,
            "keys": sorted(self.keys),
            "uids": sorted(self.uids),
        }
        if self.addresses:
            detail["addresses"] = sorted(self.addresses)
        return _entry(self.first_micros, REFUSED, detail, subject)


class Recorder:
    """Listens to all events. Make none if `security.audit` is off."""

    def __init__(self, ledger: Ledger, events: Events) -> None:
        self._ledger = ledger
        self._refusals: dict[tuple[Subject, str], _Refusals] = {}
        events.call("audit", self.hear)

    def hear(self, event: Event) -> None:
        """Record an event. Takes microseconds."""
        if isinstance(event, Refused):
            self._count(event)
        elif (name := _NAMES.get(type(event))) is not None:
            self._ledger.audit([_as_it_is(name, event)])
        elif isinstance(event, Administered) and event.action in WITHOUT_ROW:
            self._ledger.audit([_administered(event)])

    def reloaded(self, before: Config, after: Config) -> None:
        """Record what a reload has changed in the configuration, which has no row in the ledger."""
        old, new = _flat(before), _flat(after)
        changed = [name for name in new if old.get(name) != new[name]]
        detail = {
            "action": Action.RELOADED.value,
            "by": by(NOBODY),
            "before": {name: _recorded(name, old.get(name)) for name in changed},
            "after": {name: _recorded(name, new[name]) for name in changed},
        }
        self._ledger.audit([_entry(now_micros(), ADMINISTERED, detail)])

    async def run(self) -> None:
        """Record refusals once a second, in portions, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            for _ in range(0, len(self._refusals), PORTION):
                self.flush(PORTION)
                await asyncio.sleep(0)

    def flush(self, most: int | None = None, *, is_last: bool = False) -> None:
        """Record the refusals so far, or the `most` oldest counts of them. Unless it `is_last`, they wait and grow
        while nothing can be written."""
        if self._refusals and (is_last or self._ledger.healthy):
            counted = [(what, self._refusals.pop(what)) for what in list(islice(self._refusals, most))]
            self._ledger.audit([refusals.entry(*what) for what, refusals in counted])

    def _count(self, event: Refused) -> None:
        what = ((event.tenant_id, event.tenant), event.cause)
        if what not in self._refusals and len(self._refusals) >= MOST_COUNTED:
            what = ((None, None), event.cause)
        if (refusals := self._refusals.get(what)) is None:
            refusals = self._refusals[what] = _Refusals(event)
        refusals.add(event)


def _entry(
    at_micros: int, event: str, detail: dict[str, Any], subject: Subject = (None, None), request_id: str | None = None
) -> Entry:
    number, name = subject
    return Entry(at_micros=at_micros, event=event, tenant_id=number, tenant=name, request_id=request_id, detail=detail)


def _flat(config: Config) -> dict[str, Any]:
    """Its settings, by `section.key`, secrets included."""
    sections = config.model_dump(mode="json").items()
    flat = {f"{section}.{key}": value for section, settings in sections for key, value in settings.items()}
    for section, key in SECRET_KEYS:
        flat[f"{section}.{key}"] = getattr(getattr(config, section), key).get_secret_value()
    return flat


def _recorded(name: str, value: Any) -> Any:
    """What an entry shows of a setting: of a secret, only whether there is one."""
    if tuple(name.split(".")) in SECRET_KEYS:
        return "(not shown)" if value else ""
    return value


def _as_it_is(name: str, event: Event) -> Entry:
    """An entry with all that an event tells, which is numbers and names."""
    fields = msgspec.to_builtins(event)
    columns = [fields.pop(column, None) for column in _IN_COLUMNS]
    _, at_micros, tenant_id, tenant, request_id = columns
    return _entry(at_micros, name, fields, (tenant_id, tenant), request_id)


def _administered(event: Administered) -> Entry:
    address = event.actor_address
    actor = Actor(uid=event.actor_uid, pid=event.actor_pid, key_id=event.actor_key_id, address=address)
    detail = {"action": event.action.value, "by": by(actor)}
    return _entry(event.at_micros, ADMINISTERED, detail, (event.tenant_id, event.tenant), event.request_id)
