"""The schema of the ledger's file, as numbered steps. A step and the record that it was made commit together.

The record is SQLite's own `user_version`: it is part of the file's header, so it is transactional and cannot get lost.
Plain SQL, because STRICT tables with CHECK constraints are the point. A step that was released is never edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Final

from tenantd.errors import ConfigError

APPLICATION_ID: Final = 0x746E6474  # "tndt": marks the file as a ledger of tenantd

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE prices (
            id                       INTEGER PRIMARY KEY,
            currency                 TEXT NOT NULL CHECK (currency <> ''),
            input_nanos_per_million  INTEGER NOT NULL CHECK (input_nanos_per_million >= 0),
            output_nanos_per_million INTEGER NOT NULL CHECK (output_nanos_per_million >= 0),
            engine_hour_nanos        INTEGER NOT NULL CHECK (engine_hour_nanos >= 0),
            effective_micros         INTEGER NOT NULL CHECK (effective_micros >= 0)
        ) STRICT""",
        # Rows stand in the order of admission. A row names a tenant without a foreign key: who a tenant is, is no
        # business of the ledger, and a bill outlives its customer.
        """CREATE TABLE requests (
            number               INTEGER PRIMARY KEY,
            id                   TEXT NOT NULL UNIQUE CHECK (id <> ''),
            tenant               TEXT NOT NULL CHECK (tenant <> ''),
            kind                 TEXT NOT NULL CHECK (kind IN ('completion', 'chat')),
            model                TEXT NOT NULL,
            state                TEXT NOT NULL CHECK (state IN ('running', 'stop', 'length', 'cancelled',
                                                                'disconnected', 'failed', 'interrupted')),
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
            CHECK ((state = 'running') = (price_id IS NULL)),
            CHECK (state <> 'running' OR input_nanos + output_nanos + engine_nanos = 0)
        ) STRICT""",
        "CREATE INDEX requests_by_time ON requests (created_micros)",
        "CREATE INDEX requests_by_tenant ON requests (tenant, created_micros)",
        # Holds only what runs, so that start-up finds it at once in a ledger of any size.
        "CREATE INDEX requests_running ON requests (created_micros) WHERE state = 'running'",
        # Written and emptied to learn whether the file can be written at all.
        "CREATE TABLE probe (filler BLOB NOT NULL) STRICT",
        """CREATE TABLE tenants (
            name           TEXT PRIMARY KEY,
            weight         REAL NOT NULL CHECK (weight > 0 AND weight <= 1000000),
            priority       TEXT NOT NULL CHECK (priority IN ('high', 'standard', 'low')),
            state          TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'removed')),
            uids           TEXT NOT NULL,
            limits         TEXT NOT NULL,
            created_micros INTEGER NOT NULL CHECK (created_micros >= 0)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE keys (
            id             TEXT PRIMARY KEY,
            tenant         TEXT NOT NULL REFERENCES tenants (name),
            hash           TEXT NOT NULL UNIQUE CHECK (length(hash) = 64),
            prefix         TEXT NOT NULL,
            label          TEXT NOT NULL,
            created_micros INTEGER NOT NULL CHECK (created_micros >= 0),
            revoked_micros INTEGER CHECK (revoked_micros >= 0)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX keys_by_tenant ON keys (tenant, created_micros)",
    ),
    ("ALTER TABLE tenants ADD COLUMN adapter TEXT NOT NULL DEFAULT ''",),
    (
        # Every tenant was given "reject" without being asked: now it takes what the configuration says for all.
        """UPDATE tenants SET limits = json_set(limits, '$.on_limit', NULL)
            WHERE json_extract(limits, '$.on_limit') = 'reject'""",
        "ALTER TABLE tenants ADD COLUMN unbilled INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE requests ADD COLUMN unbilled INTEGER NOT NULL DEFAULT 0",
    ),
    ("ALTER TABLE tenants ADD COLUMN allow_special INTEGER NOT NULL DEFAULT 0",),
    # Nobody measured how long an interrupted request ran: all that is known is when its daemon last wrote.
    ("ALTER TABLE requests ADD COLUMN interrupted_micros INTEGER",),
)


def migrate(conn: Connection, path: str, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> int:
    """Bring the schema up to date and return its version. Each step is one transaction.

    Raises ConfigError for a file that is not a ledger, or that a newer tenantd wrote.
    """
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (tables,) = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise ConfigError(f"{path} is a database, but not one of tenantd; choose another folder (ledger.state_dir)")
    if version > len(migrations):
        raise ConfigError(
            f"{path} was written by a newer tenantd (schema {version}; this version knows {len(migrations)}); "
            "install that version again, or restore a backup from before it"
        )
    for number, statements in enumerate(migrations[version:], version + 1):
        conn.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                conn.execute(statement)
            conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            conn.execute(f"PRAGMA user_version = {number}")
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
    return len(migrations)
