"""Tenants and keys for the request path: in memory, reloaded after every change."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.domain import Limits, Tenant, TenantState
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.tenancy.keys import hash_secret, is_well_formed, live_keys
from tenantd.tenancy.tenants import list_tenants

NO_LIMITS: Final = Limits()


class Directory:
    """All tenants and live keys, including suspended tenants but not removed ones.

    Keys are looked up by their hash. An attacker who guesses keys cannot choose their hashes, so the duration of a
    lookup reveals nothing about existing keys.
    """

    def __init__(self, defaults: Limits = NO_LIMITS) -> None:
        """`defaults` are the limits of tenants that do not set their own."""
        self._defaults = defaults
        self.tenants: dict[str, Tenant] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._digests: dict[str, str] = {}  # by key id
        self._revoked: set[str] = set()  # in this run, so that an earlier reload cannot restore one
        self._by_uid: dict[int, list[Tenant]] = {}
        self._loads_begun = 0
        self._load_shown = 0
        self._stopped = 0  # removals and suspensions, which a reload that began before them may not know

    async def reload(self, ledger: Ledger) -> dict[str, Tenant]:
        """Reload everything, and return the tenants as they were until then.

        Raises LedgerUnavailable or QueueFull, in which case nothing changes.
        """
        while True:
            self._loads_begun += 1
            load, stopped, defaults = self._loads_begun, self._stopped, self._defaults
            tenants, keys = await ledger.read(functools.partial(_read, defaults=defaults), Lane.DIRECTORY)
            if load < self._load_shown:
                return self.tenants  # a later reload has overtaken this one
            if stopped == self._stopped:
                break
        before = self.tenants
        self._load_shown = load
        self._keys = keys
        self._digests = {key_id: digest for digest, (_, key_id) in keys.items()}
        for key_id in self._revoked:
            self._drop(key_id)
        self._show(tenants if defaults is self._defaults else map(self.in_force, tenants))
        return before

    def use_defaults(self, defaults: Limits) -> None:
        """Set the limits of all tenants without their own, effective at once."""
        self._defaults = defaults
        self._show(map(self.in_force, self.tenants.values()))

    def in_force(self, tenant: Tenant) -> Tenant:
        """A tenant from the ledger, with its effective limits."""
        return _in_force(tenant, self._defaults)

    def _show(self, tenants: Iterable[Tenant]) -> None:
        self.tenants = {tenant.name: tenant for tenant in tenants}
        self._by_uid = {}
        for tenant in self.tenants.values():
            for uid in tenant.uids:
                self._by_uid.setdefault(uid, []).append(tenant)

    def remove(self, tenant_id: int | None) -> None:
        """Forget a tenant whose removal is committed, and its keys, without reloading."""
        self._stopped += 1
        names = {tenant.name for tenant in self.tenants.values() if tenant.id == tenant_id}
        for key_id in [key_id for name, key_id in self._keys.values() if name in names]:
            self._drop(key_id)
        self._show([tenant for tenant in self.tenants.values() if tenant.id != tenant_id])

    def suspend(self, tenant_id: int | None) -> None:
        """Show a tenant as suspended, which is committed, without reloading."""
        self._stopped += 1
        suspended = {"state": TenantState.SUSPENDED}
        self._show(
            [
                msgspec.structs.replace(tenant, **suspended) if tenant.id == tenant_id else tenant
                for tenant in self.tenants.values()
            ]
        )

    def revoke(self, key_id: str) -> None:
        """Forget a key whose revocation is committed, without reloading."""
        self._revoked.add(key_id)
        self._drop(key_id)

    def _drop(self, key_id: str) -> None:
        if (digest := self._digests.pop(key_id, None)) is not None:
            del self._keys[digest]

    def has_key(self, key_id: str) -> bool:
        """Whether the key is live: not revoked, and its tenant not removed."""
        return key_id in self._digests

    def key_for(self, secret: str) -> tuple[Tenant, str] | None:
        """The tenant and id of a key; None if it is malformed, unknown or revoked."""
        if not is_well_formed(secret):
            return None
        found = self._keys.get(hash_secret(secret))
        if found is None:
            return None
        name, key_id = found
        return self.tenants[name], key_id

    def by_uid(self, uid: int) -> list[Tenant]:
        """The tenants that list this Unix user, by name."""
        return list(self._by_uid.get(uid, ()))


def _in_force(tenant: Tenant, defaults: Limits) -> Tenant:
    return msgspec.structs.replace(tenant, limits=tenant.own_limits.over(defaults))


def _read(conn: Connection, defaults: Limits) -> tuple[list[Tenant], dict[str, tuple[str, str]]]:
    """Read one consistent snapshot. Runs in a reading thread, to spare the event loop."""
    return [_in_force(tenant, defaults) for tenant in list_tenants(conn)], live_keys(conn)
