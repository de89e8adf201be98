"""The upgrade to schema 6: tenants get ids, and so do their keys and requests; rows can name key and user.

The requests stay where they are: columns are added behind the others, and each row gets its tenant's id in place. The
table's CHECKs on kinds and states are taken out of its definition as SQLite documents it for constraints
(https://www.sqlite.org/lang_altertable.html#otheralter): no row is copied for it.
"""

from __future__ import annotations

import logging
import time
from sqlite3 import Connection
from typing import Final

log = logging.getLogger(__name__)

BATCH_ROWS: Final = 20_000
PROGRESS_INTERVAL_S: Final = 5.0
CACHE_KIB: Final = 64 * 1024
"""For the time of the upgrade, so that a page goes to the write-ahead log once."""

# As schema 6 had them; later upgrades lead on from here.
_REQUESTS: Final = """CREATE TABLE requests (
    number               INTEGER PRIMARY KEY,
    id                   TEXT NOT NULL UNIQUE CHECK (id <> ''),
    tenant               TEXT NOT NULL CHECK (tenant <> ''),
    kind                 TEXT NOT NULL,
    model                TEXT NOT NULL,
    state                TEXT NOT NULL,
    created_micros       INTEGER NOT NULL CHECK (created_micros >= 0),
    prompt_length_tokens INTEGER NOT NULL CHECK (prompt_length_tokens >= 0),
    max_tokens           INTEGER NOT NULL CHECK (max_tokens >= 0),
    prompt_tokens        INTEGER NOT NULL DEFAULT 0 CHECK (prompt_tokens >= 0),
    completion_tokens    INTEGER NOT NULL DEFAULT 0 CHECK (completion_tokens >= 0),
    engine_micros        INTEGER NOT NULL DEFAULT 0 CHECK (engine_micros >= 0),
    first_token_micros   INTEGER CHECK (first_token_micros >= 0),
    duration_micros      INTEGER CHECK (duration_micros >= 0),
    price_id             INTEGER REFERENCES prices (id),
    input_nanos          INTEGER NOT NULL DEFAULT 0 CHECK (input_nanos >= 0),
    output_nanos         INTEGER NOT NULL DEFAULT 0 CHECK (output_nanos >= 0),
    engine_nanos         INTEGER NOT NULL DEFAULT 0 CHECK (engine_nanos >= 0),
    error                TEXT NOT NULL DEFAULT '',
    unbilled             INTEGER NOT NULL DEFAULT 0,
    interrupted_micros   INTEGER,
    tenant_id            INTEGER NOT NULL,
    key_id               TEXT,
    uid                  INTEGER,
    CHECK ((state = 'running') = (price_id IS NULL)),
    CHECK (state <> 'running' OR input_nanos + output_nanos + engine_nanos = 0)
) STRICT"""
_REQUESTS_BY_TENANT: Final = "CREATE INDEX requests_by_tenant ON requests (tenant_id, created_micros)"
_TABLES: Final = (
    """CREATE TABLE tenants (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL,
    weight         REAL NOT NULL CHECK (weight > 0 AND weight <= 1000000),
    priority       TEXT NOT NULL,
    state          TEXT NOT NULL,
    uids           TEXT NOT NULL,
    limits         TEXT NOT NULL,
    created_micros INTEGER NOT NULL CHECK (created_micros >= 0),
    adapter        TEXT NOT NULL DEFAULT '',
    unbilled       INTEGER NOT NULL DEFAULT 0,
    allow_special  INTEGER NOT NULL DEFAULT 0
) STRICT""",
    "CREATE UNIQUE INDEX tenants_by_name ON tenants (name) WHERE state <> 'removed'",
    """CREATE TABLE keys (
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL,
    hash           TEXT NOT NULL UNIQUE CHECK (length(hash) = 64),
    prefix         TEXT NOT NULL,
    label          TEXT NOT NULL,
    created_micros INTEGER NOT NULL CHECK (created_micros >= 0),
    revoked_micros INTEGER CHECK (revoked_micros >= 0),
    tenant_id      INTEGER NOT NULL REFERENCES tenants (id)
) STRICT, WITHOUT ROWID""",
    "CREATE INDEX keys_by_tenant ON keys (tenant_id, created_micros)",
)
_UNKNOWN: Final = """INSERT INTO tenants (id, name, weight, priority, state, uids, limits, created_micros)
    VALUES (?, ?, 1, 'standard', 'removed', '[]', '{}', ?)"""
_TENANTS: Final = (
    """INSERT INTO tenants
        (name, weight, priority, state, uids, limits, created_micros, adapter, unbilled, allow_special)
    SELECT name, weight, priority, state, uids, limits, created_micros, adapter, unbilled, allow_special
    FROM temp.old_tenants ORDER BY created_micros, name""",
    """INSERT INTO keys (id, tenant, hash, prefix, label, created_micros, revoked_micros, tenant_id)
    SELECT old_keys.id, tenant, hash, prefix, label, created_micros, revoked_micros, ids.id
    FROM temp.old_keys LEFT JOIN temp.ids ON ids.name = tenant""",
)
# The index of `tenants` on names has only those in use, so SQLite would read all tenants for each request.
_IDS: Final = "CREATE TEMP TABLE ids (name TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID"
_FILL_IDS: Final = "INSERT INTO temp.ids SELECT name, id FROM main.tenants"


def add_unknown(conn: Connection, name: str, created_micros: int, number: int | None = None) -> int:
    """The id of a removed tenant, made for requests whose tenant is not in this ledger: `number`, or else a new one."""
    return int(conn.execute(_UNKNOWN, (number, name, created_micros)).lastrowid or 0)


def give_ids(conn: Connection) -> None:
    """Inside the transaction of the upgrade. Logs how far it is, every few seconds."""
    conn.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    for table in ("keys", "tenants"):  # the one that refers to the other goes first
        conn.execute(f"CREATE TEMP TABLE old_{table} AS SELECT * FROM main.{table}")
        conn.execute(f"DROP TABLE main.{table}")
    tenants, keys = _TENANTS
    for statement in (*_TABLES, tenants, _IDS, _FILL_IDS, keys):
        conn.execute(statement)
    for table in ("keys", "tenants"):
        conn.execute(f"DROP TABLE temp.old_{table}")
    strangers = """SELECT tenant, min(created_micros) FROM requests
        WHERE tenant NOT IN (SELECT name FROM temp.ids) GROUP BY tenant"""
    for name, created_micros in conn.execute(strangers).fetchall():
        conn.execute("INSERT INTO temp.ids VALUES (?, ?)", (name, add_unknown(conn, name, created_micros)))
    conn.execute("ALTER TABLE requests ADD COLUMN tenant_id INTEGER NOT NULL DEFAULT 0")
    conn.execute("ALTER TABLE requests ADD COLUMN key_id TEXT")
    conn.execute("ALTER TABLE requests ADD COLUMN uid INTEGER")
    conn.execute("DROP INDEX requests_by_tenant")
    _fill(conn)
    conn.execute("DROP TABLE temp.ids")
    conn.execute(_REQUESTS_BY_TENANT)
    (version,) = conn.execute("PRAGMA schema_version").fetchone()
    conn.execute("PRAGMA writable_schema = ON")
    conn.execute("UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = 'requests'", (_REQUESTS,))
    conn.execute(f"PRAGMA schema_version = {version + 1}")  # other connections read it again
    conn.execute("PRAGMA cache_size = -2000")  # SQLite's default


def _fill(conn: Connection) -> None:
    """Give every request its tenant's id."""
    (last,) = conn.execute("SELECT coalesce(max(number), 0) FROM requests").fetchone()
    said_s = time.monotonic()
    for first in range(1, last + 1, BATCH_ROWS):
        conn.execute(
            """UPDATE requests SET tenant_id = (SELECT id FROM temp.ids WHERE name = tenant)
            WHERE number BETWEEN ? AND ?""",
            (first, first + BATCH_ROWS - 1),
        )
        if time.monotonic() - said_s >= PROGRESS_INTERVAL_S:
            said_s = time.monotonic()
            log.info("upgrading the ledger: %d of %d requests", min(first + BATCH_ROWS - 1, last), last)
