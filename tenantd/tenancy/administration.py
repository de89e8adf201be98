"""What administrators can do: named use cases, each with its actor.

A use case is one transaction of the ledger, which also has its entry in the audit trail. It is effective before it
returns, and is announced. It returns what changed, before and after, without secrets.

If the ledger cannot be read after the transaction, a use case raises LedgerUnavailable, and the change takes effect as
soon as it can. Removal, suspension and revocation need no reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from sqlite3 import Connection
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from tenantd import clock
from tenantd.domain import Actor, Scope, Tenant, TenantState
from tenantd.errors import Conflict, LedgerUnavailable, NotFound, QueueFull
from tenantd.events import Action, Administered, AnomalyFound, Events
from tenantd.ledger.audit import append
from tenantd.ledger.findings import add_finding, clear_findings
from tenantd.ledger.ledger import Ledger
from tenantd.tenancy import keys
from tenantd.tenancy import tenants as store
from tenantd.tenancy.audit_keys import Forgotten, forget_key
from tenantd.tenancy.key_parts import key_meant
from tenantd.tenancy.keys import KeyInfo
from tenantd.tenancy.prerequisites import check_adapter, check_cache
from tenantd.tenancy.recorded import administered, forgetting, of_actor
from tenantd.tenancy.running import Running
from tenantd.text.excerpt import excerpt
from tenantd.text.system_prompt import checked_system_prompt

T = TypeVar("T", Tenant, KeyInfo)
NO_KEY: Final = ", but its key cannot be shown, so create another"


class Change(NamedTuple, Generic[T]):
    """A tenant or key before and after a change. None means that it did not exist, or no longer exists."""

    before: T | None
    after: T | None

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of changed fields; () if something was added or removed."""
        if self.before is None or self.after is None:
            return ()
        names = type(self.after).__struct_fields__
        return tuple(name for name in names if getattr(self.before, name) != getattr(self.after, name))


class Administration:
    """The use cases. All raise LedgerUnavailable; those that name a tenant or key raise NotFound."""

    def __init__(
        self,
        ledger: Ledger,
        running: Running,
        events: Events,
        slots: int,
        *,
        records: bool = True,
        caches: bool = True,
    ) -> None:
        """`slots` is the number of slots of the engine, the most that can be reserved. `records`: whether there is an
        audit trail. `caches`: whether there is room for cached prompts."""
        self._caches = caches
        self._ledger = ledger
        self._records = records
        self._running = running
        self._events = events
        self._slots = slots
        self._turn = asyncio.Lock()
        """Of a change of tenants, until it is committed, and in force if it stops one. It waits only for the ledger's
        writer, which does one thing at a time anyway."""

    # -- tenants

    async def list_tenants(self) -> list[Tenant]:
        """All tenants by name, without removed ones."""
        return await self._ledger.read(store.list_tenants)

    async def get_tenant(self, name: str) -> Tenant:
        """One tenant, from the ledger."""
        return await self._ledger.read(lambda conn: store.get_tenant(conn, name))

    async def add_tenant(self, actor: Actor, tenant: Tenant) -> tuple[Change[Tenant], str]:
        """Add a tenant. Also returns the secret of its first key.

        Raises InvalidRequest, and Conflict if the name is in use, even if only by requests of a removed tenant.
        """
        check_cache(tenant.cache, has_room=self._caches)
        await check_adapter(tenant.adapter)
        await self._check_system_prompt(tenant.system_prompt)
        created_micros = clock.now_micros()

        def add(conn: Connection) -> tuple[Change[Tenant], str]:
            added = store.add_tenant(conn, msgspec.structs.replace(tenant, created_micros=created_micros))
            if is_ending:
                raise _still_ending(tenant.name)
            if store.own_reserve(added):
                store.check_reserved_slots(conn, added.name, self._slots)
            key, secret = keys.create_key(conn, added.name, "first", created_micros)
            change = Change(None, added)
            self._record(conn, actor, Action.TENANT_ADDED, change)
            self._record(conn, actor, Action.KEY_CREATED, Change(None, key))
            return change, secret

        async with self._turn:
            is_ending = self._running.has_requests(tenant.name)
            change, secret = await self._ledger.write(add)
        await self._tenant_changed(actor, Action.TENANT_ADDED, change, NO_KEY)
        return change, secret

    async def change_tenant(
        self, actor: Actor, name: str, changes: dict[str, Any], limits: dict[str, Any]
    ) -> Change[Tenant]:
        """Change only the given settings and own limits. Raises InvalidRequest, Conflict."""
        check_cache(changes.get("cache"), has_room=self._caches)
        await check_adapter(changes.get("adapter") or "")
        await self._check_system_prompt(changes.get("system_prompt") or "")

        def work(conn: Connection) -> Change[Tenant]:
            before = store.get_tenant(conn, name)
            own_limits = msgspec.structs.replace(before.own_limits, **limits)
            after = store.update_tenant(conn, name, **changes, own_limits=own_limits)
            if store.own_reserve(after) > store.own_reserve(before):
                store.check_reserved_slots(conn, name, self._slots)
            return Change(before, after)

        return await self._change_tenant(actor, Action.TENANT_CHANGED, work)

    async def suspend(self, actor: Actor, name: str) -> Change[Tenant]:
        """Refuse new requests of a tenant; running ones finish."""

        def work(conn: Connection) -> Change[Tenant]:
            return Change(store.get_tenant(conn, name), store.set_state(conn, name, TenantState.SUSPENDED))

        return await self._stop_tenant(actor, Action.TENANT_SUSPENDED, work, self._running.tenant_suspended)

    async def resume(self, actor: Actor, name: str) -> Change[Tenant]:
        """Let a suspended tenant send requests again."""

        def work(conn: Connection) -> Change[Tenant]:
            return Change(store.get_tenant(conn, name), store.set_state(conn, name, TenantState.ACTIVE))

        return await self._change_tenant(actor, Action.TENANT_RESUMED, work)

    async def throttle(self, actor: Actor, name: str) -> Change[Tenant]:
        """Give a tenant an eighth of its weight, until its anomalies are cleared."""
        now_micros = clock.now_micros()

        def work(conn: Connection) -> Change[Tenant]:
            before = store.get_tenant(conn, name)
            since_micros = before.throttled_micros or now_micros
            return Change(before, store.update_tenant(conn, name, throttled_micros=since_micros))

        return await self._change_tenant(actor, Action.TENANT_THROTTLED, work)

    async def clear_anomalies(self, actor: Actor, name: str) -> tuple[Change[Tenant], int]:
        """Give a tenant its whole weight again, and mark its anomalies as seen. It stays suspended if it is.

        Also returns how many anomalies were marked.
        """
        now_micros, cleared = clock.now_micros(), 0

        def work(conn: Connection) -> Change[Tenant]:
            nonlocal cleared
            before = store.get_tenant(conn, name)
            cleared = clear_findings(conn, before.id, now_micros)
            return Change(before, store.update_tenant(conn, name, throttled_micros=None))

        return await self._change_tenant(actor, Action.ANOMALIES_CLEARED, work), cleared

    async def record_anomaly(self, found: AnomalyFound) -> None:
        """Keep an anomaly for reports."""
        await self._ledger.write(lambda conn: add_finding(conn, found))

    async def rename(self, actor: Actor, name: str, new_name: str) -> Change[Tenant]:
        """Rename a suspended tenant without requests; it keeps its id, keys and bills.

        Raises InvalidRequest, and Conflict if the name is in use, or the tenant is active or still has requests.
        """

        def work(conn: Connection) -> Change[Tenant]:
            change = Change(store.get_tenant(conn, name), store.rename_tenant(conn, name, new_name))
            if is_ending:
                raise _still_ending(new_name)
            return change

        async with self._turn:
            if self._running.has_requests(name):
                raise Conflict(f"tenant {name} still has requests; wait until they end, or cancel them", param="name")
            is_ending = self._running.has_requests(new_name)
            change = await self._write(actor, Action.TENANT_RENAMED, work)
        await self._tenant_changed(actor, Action.TENANT_RENAMED, change)
        return change

    async def remove(self, actor: Actor, name: str) -> Change[Tenant]:
        """Remove a tenant: revoke its keys and end its requests. Its rows stay, its name becomes free."""
        now_micros = clock.now_micros()

        def work(conn: Connection) -> Change[Tenant]:
            return Change(store.remove_tenant(conn, name, now_micros), None)

        return await self._stop_tenant(actor, Action.TENANT_REMOVED, work, self._running.tenant_removed)

    async def forget(self, actor: Actor, name: str, tenant_id: int | None = None) -> Forgotten:
        """Delete the key for the hashes of a tenant, removed or not (`audit_keys.forget_key`).

        One that was not removed is asked for by its name, and hashes with a new key from its next request on.
        """

        def work(conn: Connection) -> Forgotten:
            forgotten = forget_key(conn, name, tenant_id)
            if self._records:
                append(conn, [forgetting(actor, clock.now_micros(), forgotten)])
            return forgotten

        async with self._turn:
            forgotten = await self._ledger.write(work)
        self._running.tenant_forgotten(forgotten.id)
        try:
            await self._take_effect()
        finally:
            number = forgotten.id
            self._events.announce(_event(actor, Action.TENANT_FORGOTTEN, tenant=name, tenant_id=number))
        return forgotten

    # -- keys

    async def list_keys(self, name: str | None) -> list[KeyInfo]:
        """The keys of a tenant, oldest first, including those that have ended; for None, of keys that administer."""

        def work(conn: Connection) -> list[KeyInfo]:
            return keys.list_keys(conn, None if name is None else store.get_tenant(conn, name).id)

        return await self._ledger.read(work)

    async def create_key(
        self,
        actor: Actor,
        name: str | None,
        label: str,
        *,
        scopes: Sequence[Scope] | None = None,
        expires_micros: int | None = None,
    ) -> tuple[Change[KeyInfo], str]:
        """Create a key of a tenant; for None, one that administers. Also returns its secret, which cannot be shown
        again. Raises InvalidRequest."""
        now_micros = clock.now_micros()

        def work(conn: Connection) -> tuple[Change[KeyInfo], str]:
            key, secret = keys.create_key(conn, name, label, now_micros, scopes=scopes, expires_micros=expires_micros)
            change = Change(None, key)
            self._record(conn, actor, Action.KEY_CREATED, change)
            return change, secret

        change, secret = await self._ledger.write(work)
        try:
            await self._take_effect(NO_KEY)
        finally:
            self._announce_key(actor, Action.KEY_CREATED, change)
        return change, secret

    async def rotate_key(
        self, actor: Actor, key_id: str, grace_micros: int, *, expires_micros: int | None = None
    ) -> tuple[Change[KeyInfo], Change[KeyInfo], str]:
        """Replace a key by a new one, and let the old one end after `grace_micros`.

        Returns what changed: the old key, the new one, and its secret. The new one ends at `expires_micros`; if that is
        None, it lasts as long as the old one was meant to. Raises InvalidRequest, Conflict: the old one has ended or
        was rotated.
        """
        now_micros = clock.now_micros()

        def work(conn: Connection) -> tuple[Change[KeyInfo], Change[KeyInfo], str]:
            rotation = keys.rotate_key(conn, key_meant(conn, key_id), grace_micros, now_micros, expires_micros)
            old, new = Change(rotation.before, rotation.after), Change(None, rotation.new)
            self._record(conn, actor, Action.KEY_CREATED, new)
            self._record(conn, actor, Action.KEY_ROTATED, old)
            return old, new, rotation.secret

        old, new, secret = await self._ledger.write(work)
        if old.after is not None and old.after.revoked_micros is not None:
            self._running.key_revoked(old.after.id)
        try:
            await self._take_effect(NO_KEY)
        finally:
            self._announce_key(actor, Action.KEY_CREATED, new)
            self._announce_key(actor, Action.KEY_ROTATED, old)
        return old, new, secret

    async def revoke_key(self, actor: Actor, key_id: str) -> Change[KeyInfo]:
        """Revoke a key for good. Revoking it again changes nothing."""
        now_micros = clock.now_micros()

        def work(conn: Connection) -> Change[KeyInfo]:
            before = keys.get_key(conn, key_meant(conn, key_id))
            return Change(before, keys.revoke_key(conn, before.id, now_micros))

        change = await self._write(actor, Action.KEY_REVOKED, work)
        assert change.after is not None, "it is revoked"
        self._running.key_revoked(change.after.id)  # at once, without waiting for a reload
        self._announce_key(actor, Action.KEY_REVOKED, change)
        return change

    # -- requests

    def cancel_request(self, actor: Actor, request_id: str) -> None:
        """Cancel a live request and bill the tokens generated so far. Raises NotFound."""
        if not self._running.cancel(request_id):
            raise NotFound(f"no request {excerpt(request_id, 80)} is running or waiting")
        self._events.announce(_event(actor, Action.REQUEST_CANCELLED, request_id=request_id))

    # -- shared

    async def _write(self, actor: Actor, action: Action, work: Callable[[Connection], Change[T]]) -> Change[T]:
        """Make a change, with its entry in the audit trail."""

        def recorded(conn: Connection) -> Change[T]:
            change = work(conn)
            self._record(conn, actor, action, change)
            return change

        return await self._ledger.write(recorded)

    def _record(self, conn: Connection, actor: Actor, action: Action, change: Change[T]) -> None:
        """Add the entry of a change to the audit trail, in its transaction."""
        if self._records:
            append(conn, [administered(conn, actor, action, clock.now_micros(), change.before, change.after)])

    async def _change_tenant(
        self, actor: Actor, action: Action, work: Callable[[Connection], Change[Tenant]]
    ) -> Change[Tenant]:
        async with self._turn:
            change = await self._write(actor, action, work)
        await self._tenant_changed(actor, action, change)
        return change

    async def _stop_tenant(
        self,
        actor: Actor,
        action: Action,
        work: Callable[[Connection], Change[Tenant]],
        stop: Callable[[int | None], None],
    ) -> Change[Tenant]:
        """Effective at once, without waiting for a reload, which may fail."""
        async with self._turn:
            change = await self._write(actor, action, work)
            assert change.before is not None, "it was there"
            stop(change.before.id)
        self._announce_tenant(actor, action, change)
        return change

    async def _tenant_changed(self, actor: Actor, action: Action, change: Change[Tenant], lost: str = "") -> None:
        try:
            await self._take_effect(lost)
        finally:
            self._announce_tenant(actor, action, change)

    async def _take_effect(self, lost: str = "") -> None:
        """Raises LedgerUnavailable if that comes later; `lost` says what else is wrong then."""
        try:
            await self._running.tenants_changed()
        except (LedgerUnavailable, QueueFull) as e:
            raise LedgerUnavailable(
                f"the change is committed, and takes effect as soon as the ledger can be read{lost}: {e.message}"
            ) from e

    async def _check_system_prompt(self, text: str) -> None:
        if text := checked_system_prompt(text):
            await self._running.check_system_prompt(text)

    def _announce_tenant(self, actor: Actor, action: Action, change: Change[Tenant]) -> None:
        tenant = change.after or change.before
        assert tenant is not None, "a change is of something"
        event = _event(actor, action, tenant=tenant.name, tenant_id=tenant.id, fields=change.fields)
        self._events.announce(event)

    def _announce_key(self, actor: Actor, action: Action, change: Change[KeyInfo]) -> None:
        assert change.after is not None, "keys stay"
        key = change.after
        self._events.announce(_event(actor, action, tenant=key.tenant, key_id=key.id, fields=change.fields))


def _event(actor: Actor, action: Action, **what: Any) -> Administered:
    return Administered(
        action=action,
        **of_actor(actor),
        **what,
    )


def _still_ending(name: str) -> Conflict:
    return Conflict(
        f"tenant {name} was removed and its last requests are still ending; try again in a moment",
        param="name",
        retry_after_s=1,
    )
