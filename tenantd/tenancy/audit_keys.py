"""The tenants' keys for the hashes in the audit trail: functions over a connection. None is ever shown."""

from __future__ import annotations

import secrets
from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.errors import InvalidRequest, NotFound
from tenantd.ledger.audited import AUDIT_KEY_BYTES
from tenantd.tenancy.tenants import REMOVED, tenant_meant
from tenantd.text.excerpt import excerpt

MAX_ID: Final = 2**63
MOST_IDS_SHOWN: Final = 10


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant whose key was deleted. `had_key`: it had one until now. Unless it was removed, it has a new one."""

    id: int
    name: str
    had_key: bool
    is_removed: bool


def audit_keys(conn: Connection) -> dict[int, bytes]:
    """The key of each tenant by its id; those that were removed send nothing more."""
    query = f"SELECT id, audit_key FROM tenants WHERE audit_key IS NOT NULL AND state <> '{REMOVED}'"
    return dict(conn.execute(query).fetchall())


def audit_key(conn: Connection, tenant_id: int | None) -> bytes | None:
    """The key of a tenant, removed or not; None once it is forgotten."""
    row = conn.execute("SELECT audit_key FROM tenants WHERE id = ?", (tenant_id,)).fetchone()
    return None if row is None else row[0]


def owner_of(conn: Connection, key_id: str) -> int | None:
    """The tenant of an API key, removed or not; None for one that administers."""
    row = conn.execute("SELECT tenant_id FROM keys WHERE id = ?", (key_id,)).fetchone()
    return None if row is None else row[0]


def tenant_of_name(conn: Connection, name: str, tenant_id: int | None) -> int:
    """The id of the tenant of this name, or else of the last removed one that had it.

    With `tenant_id`, that of the tenant with this id, if its name is this one now, or was when it was removed. Raises
    NotFound.
    """
    if tenant_id is None:
        return tenant_meant(conn, name)
    row = None
    if 0 < tenant_id < MAX_ID:
        row = conn.execute("SELECT 1 FROM tenants WHERE id = ? AND name = ?", (tenant_id, name)).fetchone()
    if row is None:
        raise NotFound(f"no tenant with id {tenant_id} is or was called {excerpt(name, 80)}", param="id")
    return tenant_id


def forget_key(conn: Connection, name: str, tenant_id: int | None = None) -> Forgotten:
    """Delete the key of a tenant, as `tenant_of_name` finds it: nothing can be matched with its hashes any more.

    Unless it was removed, it gets a new key for its next requests. Raises NotFound, and InvalidRequest if several
    tenants have or had the name and none is chosen by its id: nothing brings a key back.
    """
    if tenant_id is None:
        query = "SELECT id FROM tenants WHERE name = ? ORDER BY id DESC LIMIT ?"
        ids = [str(row[0]) for row in conn.execute(query, (name, MOST_IDS_SHOWN))]
        if len(ids) > 1:
            raise InvalidRequest(
                f"several tenants have or had the name {excerpt(name, 80)}, newest first: id {', '.join(ids)}; "
                "choose one with the parameter id",
                param="id",
            )
    number = tenant_of_name(conn, name, tenant_id)
    query = "SELECT state, audit_key IS NOT NULL FROM tenants WHERE id = ?"
    state, had_key = conn.execute(query, (number,)).fetchone()
    is_removed = state == REMOVED
    key = None if is_removed else secrets.token_bytes(AUDIT_KEY_BYTES)
    # First of the same length, which overwrites the old key where it is.
    conn.execute("UPDATE tenants SET audit_key = zeroblob(length(audit_key)) WHERE id = ?", (number,))
    conn.execute("UPDATE tenants SET audit_key = ? WHERE id = ?", (key, number))
    return Forgotten(id=number, name=name, had_key=bool(had_key), is_removed=is_removed)
