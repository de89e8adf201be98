"""The SQL of idempotency keys: which requests an `Idempotency-Key` of a tenant stands for, for a day.

A key is written in the transaction of the rows that it stands for. Every function runs inside a transaction started by
the caller, except that `find_first` only reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.domain import RUNNING, FinishReason, Usage
from tenantd.errors import Conflict

KEPT_S: Final = 86_400
"""How long a key stands for its first request."""
KEPT_MICROS: Final = KEPT_S * 1_000_000
BATCH_KEYS: Final = 500
"""Keys deleted in one transaction, which takes some milliseconds."""
UNKNOWN: Final = "unknown"
"""The state of a request whose row is no longer in the ledger."""
_GOOD: Final = (FinishReason.STOP.value, FinishReason.LENGTH.value)

_FIND = "SELECT body_hash, requests FROM idempotency WHERE tenant_id = ? AND key = ? AND created_micros > ?"
# With the plus, SQLite finds the rows by their ids and does not read all of the tenant's.
_ROWS = f"""SELECT id, state, {", ".join(Usage.__struct_fields__)} FROM requests
    WHERE +tenant_id = ? AND id IN (SELECT value FROM json_each(?))"""
_KEEP = """INSERT INTO idempotency (tenant_id, key, body_hash, requests, created_micros) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET body_hash = excluded.body_hash, requests = excluded.requests,
    created_micros = excluded.created_micros"""
_OLD = "SELECT tenant_id, key FROM idempotency WHERE created_micros <= ? ORDER BY created_micros LIMIT ?"
_DELETE = "DELETE FROM idempotency WHERE tenant_id = ? AND key = ?"


class KeyedBody(msgspec.Struct, frozen=True, kw_only=True):
    """An `Idempotency-Key` as a tenant sent it, and the SHA-256 of the body that came with it."""

    tenant_id: int
    key: str
    body_hash: bytes


class FirstRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a key stands for: ids and states of requests in order, and what they used together.

    A state is "running", a FinishReason, or "unknown" if the row was pruned.
    """

    body_hash: bytes
    states: dict[str, str]
    usage: Usage

    @property
    def is_running(self) -> bool:
        """Whether any of them is not settled yet."""
        return RUNNING in self.states.values()

    @property
    def is_spent(self) -> bool:
        """Whether another request with this key must not run: they gave an answer, or used something, or may have."""
        known = {RUNNING, UNKNOWN, *_GOOD}
        return self.usage != Usage() or not known.isdisjoint(self.states.values())


def find_first(conn: Connection, tenant_id: int, key: str, now_micros: int) -> FirstRequest | None:
    """What a tenant's key stands for; None if it is new, or older than a day."""
    found = conn.execute(_FIND, (tenant_id, key, now_micros - KEPT_MICROS)).fetchone()
    if found is None:
        return None
    body_hash, ids = found
    rows = {row[0]: row[1:] for row in conn.execute(_ROWS, (tenant_id, ids))}
    totals = [sum(each) for each in zip(*(row[1:] for row in rows.values()), strict=True)] or [0] * len(
        Usage.__struct_fields__
    )
    return FirstRequest(
        body_hash=body_hash,
        states={name: rows[name][0] if name in rows else UNKNOWN for name in msgspec.json.decode(ids, type=list[str])},
        usage=Usage(**dict(zip(Usage.__struct_fields__, totals, strict=True))),
    )


def keep_key(conn: Connection, keyed: KeyedBody, request_ids: Sequence[str], now_micros: int) -> None:
    """Let a key stand for these requests, whose rows are inserted in the same transaction.

    Raises Conflict if it stands for others that have used something.
    """
    first = find_first(conn, keyed.tenant_id, keyed.key, now_micros)
    if first is not None and first.is_spent:
        raise Conflict("this idempotency key stands for another request")
    ids = msgspec.json.encode(list(request_ids)).decode()
    conn.execute(_KEEP, (keyed.tenant_id, keyed.key, keyed.body_hash, ids, now_micros))


def prune_keys(conn: Connection, now_micros: int) -> int:
    """Delete a batch of keys that are older than a day. Returns how many."""
    old = conn.execute(_OLD, (now_micros - KEPT_MICROS, BATCH_KEYS)).fetchall()
    conn.executemany(_DELETE, old)  # one statement for all would look through all keys of a tenant
    return len(old)
