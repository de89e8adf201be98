"""Tenants and keys for the request path: in memory, reloaded after every change."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from sqlite3 import Connection
from typing import Final, NamedTuple

import msgspec

from tenantd import clock
from tenantd.domain import CacheUse, Limits, Scope, Tenant, TenantState
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.tenancy.audit_keys import audit_keys
from tenantd.tenancy.fingerprints import of_text
from tenantd.tenancy.key_ends import KeyEnds
from tenantd.tenancy.keys import LiveKey, hash_secret, is_well_formed, live_keys
from tenantd.tenancy.tenants import list_tenants

NO_LIMITS: Final = Limits()


class KnownKey(NamedTuple):
    """A live key that a request shows. One that administers has no tenant. `is_used`: it was used before this run."""

    tenant: Tenant | None
    id: str
    scopes: frozenset[Scope]
    is_used: bool


class AuditKey(NamedTuple):
    """The key for hashes of a tenant's prompts and answers, and its system prompt, hashed once and not for each
    request."""

    key: bytes
    system_prompt: str
    system_prompt_hmac: str

    @classmethod
    def of(cls, key: bytes, system_prompt: str) -> AuditKey:
        return cls(key, system_prompt, of_text(key, system_prompt))


def _only_own(own: CacheUse) -> bool:
    """No cache for tenants that do not ask for one."""
    return own is CacheUse.ON


class _Defaults(NamedTuple):
    """What tenants without their own settings have."""

    limits: Limits
    caches: Callable[[CacheUse], bool]

    def in_force(self, tenant: Tenant) -> Tenant:
        limits = tenant.own_limits.over(self.limits)
        return msgspec.structs.replace(tenant, limits=limits, is_cached=self.caches(tenant.cache))


class Snapshot(NamedTuple):
    """What the ledger holds at one moment. Keys by their hash, and the hashes by key id; audit keys by tenant id."""

    tenants: list[Tenant]
    keys: dict[str, LiveKey]
    digests: dict[str, str]
    ends: KeyEnds
    audit_keys: dict[int, AuditKey]


class Directory:
    """All tenants and live keys, including suspended tenants but not removed ones.

    Keys are looked up by their hash. An attacker who guesses keys cannot choose their hashes, so the duration of a
    lookup reveals nothing about existing keys. A key whose end has come takes the same lookup as one that never was.
    """

    def __init__(
        self,
        defaults: Limits = NO_LIMITS,
        caches: Callable[[CacheUse], bool] = _only_own,
        *,
        now_micros: Callable[[], int] = clock.now_micros,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`defaults` are the limits of tenants that do not set their own, and `caches` tells whether one with this
        setting has a cache. `clock_s` is monotonic."""
        self._defaults = _Defaults(defaults, caches)
        self.tenants: dict[str, Tenant] = {}
        self._keys: dict[str, LiveKey] = {}
        self._digests: dict[str, str] = {}  # by key id
        self._ends = KeyEnds(now_micros, clock_s)
        self._revoked: set[str] = set()  # in this run, so that an earlier reload cannot restore one
        self._by_uid: dict[int, list[Tenant]] = {}
        self._audit_keys: dict[int, AuditKey] = {}  # by tenant id; apart, so that no tenant is shown with its key
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
            read = functools.partial(_read, defaults=defaults, ends=self._ends)
            snapshot = await ledger.read(read, Lane.DIRECTORY)
            if load < self._load_shown:
                return self.tenants  # a later reload has overtaken this one
            if stopped == self._stopped:
                break
        before = self.tenants
        self._load_shown = load
        self._keys, self._digests, self._ends = snapshot.keys, snapshot.digests, snapshot.ends
        self._audit_keys = snapshot.audit_keys
        for key_id in self._revoked:
            self._drop(key_id)
        self._show(snapshot.tenants if defaults is self._defaults else map(self.in_force, snapshot.tenants))
        return before

    def use_defaults(self, defaults: Limits, caches: Callable[[CacheUse], bool] = _only_own) -> None:
        """Set what tenants without their own settings have, effective at once."""
        self._defaults = _Defaults(defaults, caches)
        self._show(map(self.in_force, self.tenants.values()))

    def in_force(self, tenant: Tenant) -> Tenant:
        """A tenant from the ledger, with what is in effect for it."""
        return self._defaults.in_force(tenant)

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
        for key_id in [key.id for key in self._keys.values() if key.tenant in names]:
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
        """Whether the key is live: not revoked, its end not come, and its tenant not removed."""
        return key_id in self._digests and not self._ends.has_come(key_id)

    def keys_ended(self) -> tuple[int, int]:
        """A pair that changes when the end of a key comes, or comes no more because the clock was set."""
        return self._ends.count()

    def key_for(self, secret: str) -> KnownKey | None:
        """What is known of a key; None if it is malformed, unknown or revoked, or its end has come."""
        if not is_well_formed(secret):
            return None
        return self._known(hash_secret(secret))

    def key_by_id(self, key_id: str) -> KnownKey | None:
        """What is known of a key that was shown before; None if it is not live any more."""
        digest = self._digests.get(key_id)
        return None if digest is None else self._known(digest)

    def _known(self, digest: str) -> KnownKey | None:
        found = self._keys.get(digest)
        if found is None or self._ends.has_come(found.id):
            return None
        tenant = None if found.tenant is None else self.tenants[found.tenant]
        return KnownKey(tenant, found.id, found.scopes, found.is_used)

    def audit_key(self, tenant_id: int | None) -> bytes | None:
        """The key for hashes of a tenant's prompts and answers."""
        found = None if tenant_id is None else self._audit_keys.get(tenant_id)
        return None if found is None else found.key

    def system_prompt_hmac(self, tenant: Tenant) -> str | None:
        """The hash of the system prompt of this tenant, which may have another by now; None if it has none."""
        found = None if tenant.id is None else self._audit_keys.get(tenant.id)
        if found is None or not tenant.system_prompt:
            return None
        if found.system_prompt == tenant.system_prompt:
            return found.system_prompt_hmac
        return of_text(found.key, tenant.system_prompt)

    def by_uid(self, uid: int) -> list[Tenant]:
        """The tenants that list this Unix user, by name."""
        return list(self._by_uid.get(uid, ()))


def _read(conn: Connection, defaults: _Defaults, ends: KeyEnds) -> Snapshot:
    """Read everything. Runs in a reading thread, to spare the event loop."""
    tenants, secrets, keys = list_tenants(conn), audit_keys(conn), live_keys(conn)
    return Snapshot(
        tenants=[defaults.in_force(tenant) for tenant in tenants],
        keys=keys,
        digests={key.id: digest for digest, key in keys.items()},
        ends=ends.next({key.id: key.expires_micros for key in keys.values() if key.expires_micros is not None}),
        audit_keys={one.id: AuditKey.of(secrets[one.id], one.system_prompt) for one in tenants if one.id in secrets},
    )
