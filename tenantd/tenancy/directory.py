"""The tenants and keys as the request path sees them: in memory, read again after every change."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.domain import Limits, Tenant
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.tenancy.keys import hash_secret, is_well_formed, live_keys
from tenantd.tenancy.tenants import list_tenants

NO_LIMITS: Final = Limits()


class Directory:
    """Owner of the picture. Suspended tenants are in it, removed ones and revoked keys are not.

    A key is looked up by its hash. Whoever guesses keys cannot choose their hashes, so how long a lookup takes tells
    nothing about the keys there are.
    """

    def __init__(self, defaults: Limits = NO_LIMITS) -> None:
        """`defaults` are the limits of tenants that do not set their own."""
        self._defaults = defaults
        self.tenants: dict[str, Tenant] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._digests: dict[str, str] = {}  # by key id
        self._revoked: set[str] = set()  # in this run: a reading that began before must not bring one back
        self._by_uid: dict[int, list[Tenant]] = {}
        self._loads_begun = 0
        self._load_shown = 0

    async def reload(self, ledger: Ledger) -> None:
        """Read everything and show it at once. Raises LedgerUnavailable, and then the old picture stays."""
        self._loads_begun += 1
        load = self._loads_begun
        defaults = self._defaults
        tenants, keys = await ledger.read(lambda conn: _read(conn, defaults), Lane.DIRECTORY)
        if load < self._load_shown:
            return  # a reading that began later has overtaken this one
        self._load_shown = load
        self._keys = keys
        self._digests = {key_id: digest for digest, (_, key_id) in keys.items()}
        for key_id in self._revoked:
            self._drop(key_id)
        self._show(tenants if defaults is self._defaults else map(self.in_force, tenants))

    def use_defaults(self, defaults: Limits) -> None:
        """Let these limits hold for every tenant that does not set its own, at once."""
        self._defaults = defaults
        self._show(map(self.in_force, self.tenants.values()))

    def in_force(self, tenant: Tenant) -> Tenant:
        """A tenant as the ledger has it, with the limits that hold for it."""
        return _in_force(tenant, self._defaults)

    def _show(self, tenants: Iterable[Tenant]) -> None:
        self.tenants = {tenant.name: tenant for tenant in tenants}
        self._by_uid = {}
        for tenant in self.tenants.values():
            for uid in tenant.uids:
                self._by_uid.setdefault(uid, []).append(tenant)

    def revoke(self, key_id: str) -> None:
        """Its revocation is committed: from now on it is not known, without reading anything again."""
        self._revoked.add(key_id)
        self._drop(key_id)

    def _drop(self, key_id: str) -> None:
        if (digest := self._digests.pop(key_id, None)) is not None:
            del self._keys[digest]

    def has_key(self, key_id: str) -> bool:
        """False for a key that was revoked, or went with its tenant."""
        return key_id in self._digests

    def key_for(self, secret: str) -> tuple[Tenant, str] | None:
        """The tenant and the key's id; None for a key that is malformed, unknown or revoked."""
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
    """One snapshot, every live key's tenant among the tenants; in the reading thread, so that the loop need not."""
    return [_in_force(tenant, defaults) for tenant in list_tenants(conn)], live_keys(conn)
