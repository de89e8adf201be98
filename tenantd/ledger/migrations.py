"""Upgrades a ledger's file. An upgrade and its record are committed together.

The record is SQLite's `user_version`, part of the file's header, so it is transactional and cannot get lost. A new file
gets the current schema directly; an older one gets the upgrades it lacks, each in one transaction. An upgrade is never
edited once it is released.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from sqlite3 import Connection
from typing import Final

from tenantd.errors import ConfigError
from tenantd.ledger.accounted import add_accounts
from tenantd.ledger.audited import add_audit
from tenantd.ledger.former import LAST_SCHEMA, check_columns
from tenantd.ledger.schema import SCHEMA
from tenantd.ledger.tenant_ids import give_ids

log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x746E6474  # "tndt": marks the file as a ledger of tenantd
Step = str | Callable[[Connection], None]

UPGRADES: Final[tuple[Sequence[Step], ...]] = (
    ("ALTER TABLE tenants ADD COLUMN adapter TEXT NOT NULL DEFAULT ''",),  # from schema 1 to 2, and so on
    (
        # Every tenant had "reject" without choosing it; now it gets the default in the configuration.
        """UPDATE tenants SET limits = json_set(limits, '$.on_limit', NULL)
            WHERE json_extract(limits, '$.on_limit') = 'reject'""",
        "ALTER TABLE tenants ADD COLUMN unbilled INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE requests ADD COLUMN unbilled INTEGER NOT NULL DEFAULT 0",
    ),
    ("ALTER TABLE tenants ADD COLUMN allow_special INTEGER NOT NULL DEFAULT 0",),
    # The duration of an interrupted request is unknown; only the last write of its daemon is known.
    ("ALTER TABLE requests ADD COLUMN interrupted_micros INTEGER",),
    (give_ids,),
    (add_audit,),
    (add_accounts,),
    (
        "ALTER TABLE requests ADD COLUMN energy_millijoules   INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE hours ADD COLUMN energy_millijoules INTEGER NOT NULL DEFAULT 0",
    ),
)
VERSION: Final = len(UPGRADES) + 1
"""Version of `SCHEMA`, which all upgrades lead to."""


def migrate(conn: Connection, path: str, upgrades: Sequence[Sequence[Step]] = UPGRADES) -> int:
    """Bring the schema up to date and return its version. Each upgrade is one transaction.

    Raises ConfigError for a file that is not a ledger, that a newer tenantd wrote, or whose tables were altered.
    """
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (tables,) = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    newest = len(upgrades) + 1
    if application != APPLICATION_ID and (application or version or tables):
        raise ConfigError(f"{path} is a database, but not one of tenantd's; choose another folder (ledger.state_dir)")
    if version > newest:
        raise ConfigError(
            f"{path} was written by a newer tenantd (schema {version}; this version knows {newest}); "
            "install that version again, or restore a backup from before it"
        )
    if version < 0 or (not version and tables):
        raise ConfigError(
            f"{path} says that its schema is {version} (PRAGMA user_version), which no tenantd writes; restore a backup"
        )
    if 0 < version <= LAST_SCHEMA < newest:
        check_columns(conn, path, version)
    if not version:
        _transact(conn, SCHEMA, VERSION)
        version = VERSION
    began, began_s = version, time.monotonic()
    while version < newest:
        log.info("upgrading %s from schema %d to %d", path, version, version + 1)
        _transact(conn, upgrades[version - 1], version + 1)
        version += 1
    if began < newest:
        log.info("%s was upgraded in %.1f s", path, time.monotonic() - began_s)
    return newest


def needs_upgrade(conn: Connection) -> int:
    """The schema of a ledger that an earlier version wrote, 0 for any other file."""
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    return int(version) if application == APPLICATION_ID and 0 < version < VERSION else 0


def _transact(conn: Connection, steps: Sequence[Step], version: int) -> None:
    conn.execute("BEGIN IMMEDIATE")
    try:
        for step in steps:
            if isinstance(step, str):
                conn.execute(step)
            else:
                step(conn)
        conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        conn.execute(f"PRAGMA user_version = {version}")
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
    finally:
        # An upgrade may have edited the schema as text, so make SQLite read it again, also after a failure.
        conn.execute("PRAGMA writable_schema = RESET")
