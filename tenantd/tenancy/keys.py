"""API keys: `td_`, 33 characters of 24 random bytes, 6 characters of checksum.

The checksum allows refusing a mistyped key without a lookup. Only the SHA-256 of a key is stored: with 192
random bits, nobody can guess a key from its hash, so a slow password hash would gain nothing and slow down each
request.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib
from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd import clock
from tenantd.domain import Scope
from tenantd.errors import InvalidRequest, NotFound
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


TENANT_SCOPES: Final = (Scope.RUN, Scope.READ)
"""Scopes of a key that does not name any."""


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. `prefix` is its beginning, to tell keys apart. One that administers has no tenant."""

    id: str
    tenant: str | None
    prefix: str
    label: str
    created_micros: int
    revoked_micros: int | None
    scopes: tuple[Scope, ...] = TENANT_SCOPES
    expires_micros: int | None = None
    last_used_micros: int | None = None


_COLUMNS: Final = ", ".join(KeyInfo.__struct_fields__)


def create_key(conn: Connection, tenant: str, label: str, now_micros: int | None = None) -> tuple[KeyInfo, str]:
    """A new key and its secret, which cannot be shown again. Raises NotFound (tenant), InvalidRequest (label)."""
    owner = get_tenant(conn, tenant)
    if len(label) > MAX_LABEL_CHARACTERS or not label.isprintable():
        raise InvalidRequest(f"label: may have at most {MAX_LABEL_CHARACTERS} printable characters", param="label")
    secret = new_secret()
    info = KeyInfo(
        id="key_" + "".join(secrets.choice(ALPHABET) for _ in range(ID_CHARACTERS)),
        tenant=tenant,
        prefix=secret[:SHOWN_CHARACTERS],
        label=label,
        created_micros=_now(now_micros),
        revoked_micros=None,
    )
    row = {**msgspec.structs.asdict(info), "scopes": ",".join(info.scopes)}
    values = (*row.values(), hash_secret(secret), owner.id)
    conn.execute(f"INSERT INTO keys ({_COLUMNS}, hash, tenant_id) VALUES ({', '.join('?' * len(values))})", values)
    return info, secret


def list_keys(conn: Connection, tenant_id: int | None) -> list[KeyInfo]:
    """All keys of a tenant, oldest first, including revoked ones."""
    rows = conn.execute(f"SELECT {_COLUMNS} FROM keys WHERE tenant_id = ? ORDER BY created_micros, id", (tenant_id,))
    return [_info(row) for row in rows]


def get_key(conn: Connection, key_id: str) -> KeyInfo:
    """Raises NotFound."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM keys WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise NotFound(f"no key {key_id!r}; to list keys, run: tenantctl key list TENANT")
    return _info(row)


def revoke_key(conn: Connection, key_id: str, now_micros: int | None = None) -> KeyInfo:
    """Revoke a key for good. Revoking it again changes nothing. Raises NotFound."""
    conn.execute(
        "UPDATE keys SET revoked_micros = ? WHERE id = ? AND revoked_micros IS NULL", (_now(now_micros), key_id)
    )
    return get_key(conn, key_id)


def live_keys(conn: Connection) -> dict[str, tuple[str, str]]:
    """Tenant and key id by hash, of every key that is not revoked."""
    rows = conn.execute("SELECT hash, tenant, id FROM keys WHERE revoked_micros IS NULL")
    return {digest: (tenant, key_id) for digest, tenant, key_id in rows}


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
    return KeyInfo(**{**fields, "scopes": tuple(Scope(scope) for scope in fields["scopes"].split(","))})


def _now(now_micros: int | None) -> int:
    return clock.now_micros() if now_micros is None else now_micros
