"""API keys: `td_`, 33 characters of 24 random bytes, 6 characters of checksum.

The checksum allows refusing a mistyped key without a lookup. Only the SHA-256 of a key is stored: with 192
random bits, nobody can guess a key from its hash, so a slow password hash would gain nothing and slow down each
request.

A key of a tenant may run requests or read, as its scopes say. A key without a tenant administers. A key may end at a
time of the wall clock.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from sqlite3 import Connection
from typing import Any, Final, NamedTuple

import msgspec

from tenantd import clock
from tenantd.domain import Scope
from tenantd.errors import Conflict, InvalidRequest, NotFound
from tenantd.tenancy.budget_rows import inherit_budgets
from tenantd.tenancy.tenants import get_tenant

PREFIX: Final = "td_"
RANDOM_BYTES: Final = 24
ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
BODY_CHARACTERS: Final = 33  # 62**33 > 256**24
CHECKSUM_CHARACTERS: Final = 6  # 62**6 > 2**32
KEY_CHARACTERS: Final = len(PREFIX) + BODY_CHARACTERS + CHECKSUM_CHARACTERS
SHOWN_CHARACTERS: Final = 8
ID_CHARACTERS: Final = 12
MAX_LABEL_CHARACTERS: Final = 64
MAX_LIFETIME_S: Final = 100 * 365 * 86_400
MAX_GRACE_S: Final = 365 * 86_400
DEFAULT_GRACE_S: Final = 3600
KEPT_AFTER_END_MICROS: Final = 7 * 86_400 * 1_000_000
"""How long keys are still loaded after their end, because the clock may be wrong and set back."""

TENANT_SCOPES: Final = (Scope.RUN, Scope.READ)
"""Scopes of a tenant's key that does not name any."""
ADMIN_SCOPES: Final = (Scope.ADMIN,)
"""Scopes of a key that administers."""


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. `prefix` is its beginning, to tell keys apart. One that administers has no tenant.

    `last_used_micros` is exact to a minute. `replaced_by` is the id of the key that it was rotated to.
    """

    id: str
    tenant: str | None
    prefix: str
    label: str
    created_micros: int
    revoked_micros: int | None
    scopes: tuple[Scope, ...] = TENANT_SCOPES
    expires_micros: int | None = None
    last_used_micros: int | None = None
    replaced_by: str | None = None


class LiveKey(NamedTuple):
    """What a request needs to know of a key that is not revoked. Its end may have come."""

    tenant: str | None
    id: str
    scopes: frozenset[Scope]
    expires_micros: int | None
    is_used: bool


class Rotation(NamedTuple):
    """A key before and after its rotation, and the one that replaces it, with its secret."""

    before: KeyInfo
    after: KeyInfo
    new: KeyInfo
    secret: str


_COLUMNS: Final = ", ".join(KeyInfo.__struct_fields__)


def create_key(
    conn: Connection,
    tenant: str | None,
    label: str,
    now_micros: int | None = None,
    *,
    scopes: Iterable[Scope] | None = None,
    expires_micros: int | None = None,
) -> tuple[KeyInfo, str]:
    """A new key and its secret, which cannot be shown again. Without a tenant, it administers.

    Raises NotFound (tenant), InvalidRequest (label, scopes, expires_micros).
    """
    owner = None if tenant is None else get_tenant(conn, tenant)
    now_micros = _now(now_micros)
    if len(label) > MAX_LABEL_CHARACTERS or not label.isprintable():
        raise InvalidRequest(f"label: may have at most {MAX_LABEL_CHARACTERS} printable characters", param="label")
    if expires_micros is not None:
        _check_end(expires_micros, now_micros)
    secret = new_secret()
    info = KeyInfo(
        id="key_" + "".join(secrets.choice(ALPHABET) for _ in range(ID_CHARACTERS)),
        tenant=tenant,
        prefix=secret[:SHOWN_CHARACTERS],
        label=label,
        created_micros=now_micros,
        revoked_micros=None,
        scopes=_checked_scopes(tenant, scopes),
        expires_micros=expires_micros,
    )
    row = {**msgspec.structs.asdict(info), "scopes": ",".join(info.scopes)}
    values = (*row.values(), hash_secret(secret), None if owner is None else owner.id)
    conn.execute(f"INSERT INTO keys ({_COLUMNS}, hash, tenant_id) VALUES ({', '.join('?' * len(values))})", values)
    return info, secret


def list_keys(conn: Connection, tenant_id: int | None) -> list[KeyInfo]:
    """All keys of a tenant, oldest first, including those that have ended; for None, of keys that administer."""
    rows = conn.execute(f"SELECT {_COLUMNS} FROM keys WHERE tenant_id IS ? ORDER BY created_micros, id", (tenant_id,))
    return [_info(row) for row in rows]


def get_key(conn: Connection, key_id: str) -> KeyInfo:
    """Raises NotFound."""
    if (found := find_key(conn, key_id)) is None:
        raise NotFound(f"no key {key_id!r}; to list keys, run: tenantctl key list TENANT")
    return found


def find_key(conn: Connection, key_id: str) -> KeyInfo | None:
    """A key by its whole id."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM keys WHERE id = ?", (key_id,)).fetchone()
    return None if row is None else _info(row)


def revoke_key(conn: Connection, key_id: str, now_micros: int | None = None) -> KeyInfo:
    """Revoke a key for good. Revoking it again changes nothing. Raises NotFound."""
    conn.execute(
        "UPDATE keys SET revoked_micros = ? WHERE id = ? AND revoked_micros IS NULL", (_now(now_micros), key_id)
    )
    return get_key(conn, key_id)


def rotate_key(
    conn: Connection, key_id: str, grace_micros: int, now_micros: int, expires_micros: int | None = None
) -> Rotation:
    """Replace a key by a new one of the same tenant, label and scopes. The old one ends after `grace_micros`, or at
    once if that is 0, but never later than it would have.

    The new one ends at `expires_micros`; if that is None, it lasts as long as the old one was meant to. It has the
    budgets of the old one. Raises NotFound, InvalidRequest, Conflict: the old one has ended or was rotated.
    """
    before = get_key(conn, key_id)
    _check_rotatable(before, now_micros)
    if expires_micros is None and before.expires_micros is not None:
        lifetime_micros = max(1, before.expires_micros - before.created_micros)
        expires_micros = now_micros + min(lifetime_micros, MAX_LIFETIME_S * 1_000_000)
    new, secret = create_key(
        conn, before.tenant, before.label, now_micros, scopes=before.scopes, expires_micros=expires_micros
    )
    conn.execute("UPDATE keys SET replaced_by = ? WHERE id = ?", (new.id, key_id))
    inherit_budgets(conn, key_id, new.id)
    if grace_micros:
        ends_micros = now_micros + grace_micros
        if before.expires_micros is not None:
            ends_micros = min(ends_micros, before.expires_micros)
        conn.execute("UPDATE keys SET expires_micros = ? WHERE id = ?", (ends_micros, key_id))
        after = get_key(conn, key_id)
    else:
        after = revoke_key(conn, key_id, now_micros)
    return Rotation(before, after, new, secret)


def note_uses(conn: Connection, uses: Mapping[str, int]) -> None:
    """Record when keys were last used, in microseconds since 1970, by key id."""
    conn.executemany(
        "UPDATE keys SET last_used_micros = ? WHERE id = ?", [(micros, key_id) for key_id, micros in uses.items()]
    )


def live_keys(conn: Connection, now_micros: int | None = None) -> dict[str, LiveKey]:
    """Every key that is not revoked by its hash, but none that ended long before `now_micros`."""
    rows = conn.execute(
        "SELECT hash, tenant, id, scopes, expires_micros, last_used_micros IS NOT NULL FROM keys "
        "WHERE revoked_micros IS NULL AND (expires_micros IS NULL OR expires_micros > ?)",
        (_now(now_micros) - KEPT_AFTER_END_MICROS,),
    )
    return {
        digest: LiveKey(tenant, key_id, frozenset(_scopes(scopes)), expires_micros, bool(is_used))
        for digest, tenant, key_id, scopes, expires_micros, is_used in rows
    }


# -- checks


def _checked_scopes(tenant: str | None, scopes: Iterable[Scope] | None) -> tuple[Scope, ...]:
    """Each scope once, in the order of `Scope`. Raises InvalidRequest for those that a key cannot have."""
    if tenant is None:
        return ADMIN_SCOPES
    asked = TENANT_SCOPES if scopes is None else tuple(scopes)
    if Scope.ADMIN in asked:
        raise InvalidRequest(
            "scopes: a tenant's key cannot have the scope admin; a key without a tenant administers", param="scopes"
        )
    if not asked:
        raise InvalidRequest("scopes: must have at least one of run and read", param="scopes")
    return tuple(scope for scope in Scope if scope in asked)


def _check_end(expires_micros: int, now_micros: int) -> None:
    """Raises InvalidRequest."""
    if expires_micros <= now_micros:
        raise InvalidRequest("expires_micros: must be in the future", param="expires_micros")
    if expires_micros - now_micros > MAX_LIFETIME_S * 1_000_000:
        years = MAX_LIFETIME_S // (365 * 86_400)
        raise InvalidRequest(
            f"expires_micros: must be within {years} years; leave it out for a key that does not expire",
            param="expires_micros",
        )


def _check_rotatable(key: KeyInfo, now_micros: int) -> None:
    """Raises Conflict."""
    another = "tenantctl key create " + ("--admin" if key.tenant is None else key.tenant)
    if key.replaced_by is not None:
        raise Conflict(
            f"key {key.id} was already rotated, to {key.replaced_by}; rotate that one; "
            f"to end the old one now: tenantctl key revoke {key.id}"
        )
    if key.revoked_micros is not None:
        raise Conflict(f"key {key.id} was revoked; to create another, run: {another}")
    if key.expires_micros is not None and key.expires_micros <= now_micros:
        raise Conflict(f"key {key.id} has expired; to create another, run: {another}")


# -- secrets


def new_secret() -> str:
    """A new random key."""
    body = _base62(int.from_bytes(secrets.token_bytes(RANDOM_BYTES), "big"), BODY_CHARACTERS)
    return PREFIX + body + _checksum(body)


def is_well_formed(secret: str) -> bool:
    """Whether this could be a key: right format and checksum. It may still be unknown."""
    if len(secret) != KEY_CHARACTERS or not secret.startswith(PREFIX) or not secret.isascii():
        return False
    body = secret[len(PREFIX) : -CHECKSUM_CHARACTERS]
    return secret.endswith(_checksum(body))


def hash_secret(secret: str) -> str:
    """The hash that is stored instead of the key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_CHARACTERS)


def _base62(number: int, characters: int) -> str:
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    assert number == 0, "the number has more digits than there is room for"
    return "".join(reversed(digits))


def _info(row: tuple[Any, ...]) -> KeyInfo:
    fields = dict(zip(KeyInfo.__struct_fields__, row, strict=True))
    return KeyInfo(**{**fields, "scopes": _scopes(fields["scopes"])})


@cache
def _scopes(text: str) -> tuple[Scope, ...]:
    """The scopes of a row, separated by commas."""
    return tuple(Scope(scope) for scope in text.split(","))


def _now(now_micros: int | None) -> int:
    return clock.now_micros() if now_micros is None else now_micros
