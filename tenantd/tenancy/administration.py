"""What administrators do: named use cases, each with its actor.

A use case is one transaction of the ledger, is effective before it returns, and is announced. It returns what changed,
before and after, without secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from tenantd import clock
from tenantd.domain import Actor, Tenant, TenantState
from tenantd.errors import Conflict, InvalidRequest, NotFound
from tenantd.events import Action, Administered, Events
from tenantd.ledger.ledger import Ledger
from tenantd.llamacpp.gguf import NotGguf, check_adapter
from tenantd.tenancy import keys
from tenantd.tenancy import tenants as store
from tenantd.tenancy.keys import KeyInfo
from tenantd.text.excerpt import excerpt

T = TypeVar("T", Tenant, KeyInfo)


class Change(NamedTuple, Generic[T]):
    """A tenant or key before and after what an administrator did. None: it was not there, or is no more."""

    before: T | None
    after: T | None

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of what differs; () where something came or went."""
        if self.before is None or self.after is None:
            return ()
        names = type(self.after).__struct_fields__
        return tuple(name for name in names if getattr(self.before, name) != getattr(self.after, name))


class Running(Protocol):
    """The daemon that a change is to be effective in."""

    async def tenants_changed(self) -> None:
        """Read tenants and keys again. Raises LedgerUnavailable."""

    def key_revoked(self, key_id: str) -> None:
        """Let it start nothing, and end what it runs."""

    def has_requests(self, tenant: str) -> bool:
        """Some are live, or wait for its rate limits."""

    def cancel(self, request_id: str) -> bool:
        """End a live request. False when there is none of this id."""


class Administration:
    """The use cases. All raise LedgerUnavailable; those that name a tenant or key raise NotFound."""

    def __init__(self, ledger: Ledger, running: Running, events: Events, slots: int) -> None:
        """`slots` are the engine's: as many can be reserved."""
        self._ledger = ledger
        self._running = running
        self._events = events
        self._slots = slots

    # -- tenants

    async def list_tenants(self) -> list[Tenant]:
        """By name, without the removed."""
        return await self._ledger.read(store.list_tenants)

    async def get_tenant(self, name: str) -> Tenant:
        """As the ledger has it."""
        return await self._ledger.read(lambda conn: store.get_tenant(conn, name))

    async def add_tenant(self, actor: Actor, tenant: Tenant) -> tuple[Change[Tenant], str]:
        """Also the secret of its first key. Raises InvalidRequest, Conflict."""
        await _check_adapter(tenant.adapter)
        created_micros = clock.now_micros()

        def add(conn: Connection) -> tuple[Change[Tenant], str]:
            added = store.add_tenant(conn, msgspec.structs.replace(tenant, created_micros=created_micros))
            if store.own_reserve(added):
                store.check_reserved_slots(conn, added.name, self._slots)
            return Change(None, added), keys.create_key(conn, added.name, "first", created_micros)[1]

        change, secret = await self._ledger.write(add)
        await self._tenant_changed(actor, Action.TENANT_ADDED, change)
        return change, secret

    async def change_tenant(
        self, actor: Actor, name: str, changes: dict[str, Any], limits: dict[str, Any]
    ) -> Change[Tenant]:
        """Change only these settings and own limits. Raises InvalidRequest, Conflict."""
        await _check_adapter(changes.get("adapter") or "")

        def work(conn: Connection) -> Change[Tenant]:
            before = store.get_tenant(conn, name)
            own_limits = msgspec.structs.replace(before.own_limits, **limits)
            after = store.update_tenant(conn, name, **changes, own_limits=own_limits)
            if store.own_reserve(after) > store.own_reserve(before):
                store.check_reserved_slots(conn, name, self._slots)
            return Change(before, after)

        return await self._change_tenant(actor, Action.TENANT_CHANGED, work)

    async def suspend(self, actor: Actor, name: str) -> Change[Tenant]:
        """Take no more of its requests; what runs goes on."""
        return await self._set_state(actor, Action.TENANT_SUSPENDED, name, TenantState.SUSPENDED)

    async def resume(self, actor: Actor, name: str) -> Change[Tenant]:
        """Take its requests again."""
        return await self._set_state(actor, Action.TENANT_RESUMED, name, TenantState.ACTIVE)

    async def rename(self, actor: Actor, name: str, new_name: str) -> Change[Tenant]:
        """Give a suspended tenant without requests another name; its id, keys and bills stay its own.

        Raises InvalidRequest, Conflict: the name is in use, or the tenant is active or still has requests.
        """
        if self._running.has_requests(name):
            raise Conflict(f"tenant {name} still has requests; wait until they end, or cancel them", param="name")

        def work(conn: Connection) -> Change[Tenant]:
            return Change(store.get_tenant(conn, name), store.rename_tenant(conn, name, new_name))

        return await self._change_tenant(actor, Action.TENANT_RENAMED, work)

    async def remove(self, actor: Actor, name: str) -> Change[Tenant]:
        """Revoke its keys and end its requests. Its rows stay, its name is free."""
        now_micros = clock.now_micros()

        def work(conn: Connection) -> Change[Tenant]:
            return Change(store.remove_tenant(conn, name, now_micros), None)

        return await self._change_tenant(actor, Action.TENANT_REMOVED, work)

    # -- keys

    async def list_keys(self, name: str) -> list[KeyInfo]:
        """Of one tenant, oldest first, with the revoked."""
        return await self._ledger.read(lambda conn: keys.list_keys(conn, store.get_tenant(conn, name).id))

    async def create_key(self, actor: Actor, name: str, label: str) -> tuple[Change[KeyInfo], str]:
        """Also its secret, which is nowhere to be had again. Raises InvalidRequest."""
        now_micros = clock.now_micros()
        key, secret = await self._ledger.write(lambda conn: keys.create_key(conn, name, label, now_micros))
        await self._running.tenants_changed()
        change = Change(None, key)
        self._announce_key(actor, Action.KEY_CREATED, change)
        return change, secret

    async def revoke_key(self, actor: Actor, key_id: str) -> Change[KeyInfo]:
        """For good; a second time changes nothing."""
        now_micros = clock.now_micros()

        def work(conn: Connection) -> Change[KeyInfo]:
            return Change(keys.get_key(conn, key_id), keys.revoke_key(conn, key_id, now_micros))

        change = await self._ledger.write(work)
        self._running.key_revoked(key_id)  # at once: it needs no reading, which may have to wait
        self._announce_key(actor, Action.KEY_REVOKED, change)
        return change

    # -- requests

    def cancel_request(self, actor: Actor, request_id: str) -> None:
        """Bill a live request for what came, and end it. Raises NotFound."""
        if not self._running.cancel(request_id):
            raise NotFound(f"no request {excerpt(request_id, 80)} is running or waiting")
        self._events.announce(_event(actor, Action.REQUEST_CANCELLED, request_id=request_id))

    # -- shared

    async def _set_state(self, actor: Actor, action: Action, name: str, state: TenantState) -> Change[Tenant]:
        def work(conn: Connection) -> Change[Tenant]:
            return Change(store.get_tenant(conn, name), store.set_state(conn, name, state))

        return await self._change_tenant(actor, action, work)

    async def _change_tenant(
        self, actor: Actor, action: Action, work: Callable[[Connection], Change[Tenant]]
    ) -> Change[Tenant]:
        change = await self._ledger.write(work)
        await self._tenant_changed(actor, action, change)
        return change

    async def _tenant_changed(self, actor: Actor, action: Action, change: Change[Tenant]) -> None:
        await self._running.tenants_changed()
        tenant = change.after or change.before
        assert tenant is not None, "a change is of something"
        event = _event(actor, action, tenant=tenant.name, tenant_id=tenant.id, fields=change.fields)
        self._events.announce(event)

    def _announce_key(self, actor: Actor, action: Action, change: Change[KeyInfo]) -> None:
        assert change.after is not None, "keys stay"
        key = change.after
        self._events.announce(_event(actor, action, tenant=key.tenant, key_id=key.id, fields=change.fields))


def _event(actor: Actor, action: Action, **what: Any) -> Administered:
    return Administered(action=action, actor_uid=actor.uid, actor_pid=actor.pid, **what)


async def _check_adapter(path: str) -> None:
    """Raises InvalidRequest for a file that cannot be one. Whether it fits the model, the engine says at the first
    request."""
    if path:
        store.check_adapter_path(path)
        try:
            await asyncio.to_thread(check_adapter, Path(path))  # a slow disk keeps nobody waiting
        except (NotGguf, ValueError) as e:  # ValueError: no path of a file
            raise InvalidRequest(f"adapter: {e}", param="adapter") from e
