"""Audit trails for tests, and tampering with them."""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

from tenantd.ledger.audit import Entry, append
from tenantd.ledger.trail import AuditRecord, Wanted, select
from tests.ledger.books import NOW_MICROS, memory_ledger

TRIGGERS = ("audit_is_never_changed", "audit_is_only_pruned", "audit_head_is_kept")
COPY = "SELECT at_micros, event, tenant_id, tenant, request_id, detail, hash FROM audit WHERE number = ?"
SET = """UPDATE audit SET at_micros = ?, event = ?, tenant_id = ?, tenant = ?, request_id = ?, detail = ?, hash = ?
    WHERE number = ?"""


def entry(event: str, **changes: Any) -> Entry:
    defaults: dict[str, Any] = {"at_micros": NOW_MICROS, "tenant_id": 1, "tenant": "acme", "request_id": "r1"}
    return Entry(event=event, **{**defaults, **changes})


def trail_of(conn: sqlite3.Connection, **wanted: Any) -> list[AuditRecord]:
    return select(conn, Wanted(**wanted), limit=1000).entries


def memory_trail(count: int) -> sqlite3.Connection:
    """Entries "e1" to "e<count>", numbered like that, without the triggers; a transaction is open."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.deserialize(_image(count))
    conn.execute("BEGIN")
    return conn


@cache
def _image(count: int) -> bytes:
    conn = memory_ledger()
    append(conn, [entry(f"e{n}", at_micros=NOW_MICROS + n, request_id=f"r{n}") for n in range(1, count + 1)])
    drop_triggers(conn)
    image = conn.serialize()
    conn.close()
    return image


def drop_triggers(conn: sqlite3.Connection) -> None:
    for name in TRIGGERS:
        conn.execute(f"DROP TRIGGER IF EXISTS {name}")


def tamper(path: Path, *statements: str) -> None:
    conn = sqlite3.connect(path, isolation_level=None)
    drop_triggers(conn)
    for statement in statements:
        conn.execute(statement)
    conn.close()


def shift(conn: sqlite3.Connection, first: int, by: int) -> None:
    """Renumber the entries from `first` on."""
    conn.execute("UPDATE audit SET number = -number WHERE number >= ?", (first,))
    conn.execute("UPDATE audit SET number = -number + ? WHERE number < 0", (by,))


def swap(conn: sqlite3.Connection, one: int, other: int, *, hashes: bool) -> None:
    """Exchange the contents of two entries, and their hashes too or not."""
    first, second = conn.execute(COPY, (one,)).fetchone(), conn.execute(COPY, (other,)).fetchone()
    if not hashes:
        first, second = (*first[:-1], second[-1]), (*second[:-1], first[-1])
    conn.execute(SET, (*second, one))
    conn.execute(SET, (*first, other))


def insert(conn: sqlite3.Connection, number: int, digest: bytes, event: str = "forged") -> None:
    conn.execute("INSERT INTO audit VALUES (?, ?, ?, 1, 'acme', 'r1', '{}', ?)", (number, NOW_MICROS, event, digest))
