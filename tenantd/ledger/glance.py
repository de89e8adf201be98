"""A quick look at the ledger's file, without changing it, while a daemon writes it or none does."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tenantd.errors import ConfigError, LedgerUnavailable
from tenantd.ledger.check import find_damage
from tenantd.ledger.copies import readable_name
from tenantd.ledger.database import explain, unusable
from tenantd.ledger.migrations import APPLICATION_ID, VERSION

BUSY_TIMEOUT_MS: Final = 1000
STEPS: Final = 10_000
"""Of SQLite's machine between two looks at the time."""
_NEWEST: Final = {
    "requests": "SELECT max(created_micros) FROM requests",
    "audit": "SELECT at_micros FROM audit ORDER BY number DESC LIMIT 1",
}
_TABLES: Final = "SELECT name FROM sqlite_schema WHERE type = 'table'"


class Glance(NamedTuple):
    """What was seen. `damage` is "" if none was found; the file was read to its end if it `is_whole`.

    `newest_micros` is the time of the newest request or entry of the audit trail, 0 without one.
    """

    schema: int
    newest_schema: int
    newest_micros: int
    damage: str
    is_whole: bool
    size_bytes: int
    mode: int
    owner_uid: int
    folder_uid: int


def glance(path: Path, most_s: float) -> Glance:
    """Look for damage for as long as that. Raises LedgerUnavailable, LedgerDamaged, ConfigError."""
    with _reading(path) as conn:
        schema = _schema(conn, path)
        tables = {name for (name,) in conn.execute(_TABLES)}
        newest = [conn.execute(query).fetchone() for table, query in _NEWEST.items() if table in tables]
        damage, is_whole = _damage(conn, path, most_s)
    found = path.stat()
    return Glance(
        schema=schema,
        newest_schema=VERSION,
        newest_micros=max((row[0] or 0 for row in newest if row is not None), default=0),
        damage=damage,
        is_whole=is_whole,
        size_bytes=found.st_size,
        mode=stat.S_IMODE(found.st_mode),
        owner_uid=found.st_uid,
        folder_uid=path.parent.stat().st_uid,
    )


def adapters(path: Path, most_s: float) -> list[tuple[str, str]]:
    """The tenants that have an adapter, with its path. Raises as `glance` does."""
    with _reading(path) as conn:
        if _schema(conn, path) < 2:  # the first with adapters
            return []
        _end_after(conn, most_s)
        query = "SELECT name, adapter FROM tenants WHERE state <> 'removed' AND adapter <> '' ORDER BY name"
        return [(name, adapter) for name, adapter in conn.execute(query)]


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that neither writes nor creates files. Raises LedgerUnavailable, LedgerDamaged."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as e:
        raise LedgerUnavailable(f"cannot open {path}: {e.strerror}") from e
    if not stat.S_ISREG(path.stat().st_mode):
        raise LedgerUnavailable(f"{path} is not a file; move it away, or choose another ledger.state_dir")
    try:
        with closing(sqlite3.connect(readable_name(path), uri=True, isolation_level=None, timeout=0)) as conn:
            conn.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            yield conn
    except sqlite3.Error as e:
        raise unusable(e, path) from e


def _schema(conn: sqlite3.Connection, path: Path) -> int:
    """Raises ConfigError if it is not a ledger, or one of a newer version."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ConfigError(f"{path} is a database, but not one of tenantd's; choose another folder (ledger.state_dir)")
    if version > VERSION:
        raise ConfigError(
            f"{path} was written by a newer tenantd (schema {version}; this version knows {VERSION}); install that "
            "version again, or restore a backup from before it"
        )
    return int(version)


def _damage(conn: sqlite3.Connection, path: Path, most_s: float) -> tuple[str, bool]:
    """What is damaged, and whether everything was looked at."""
    _end_after(conn, most_s)
    try:
        return find_damage(conn, path), True
    except sqlite3.Error as e:
        if getattr(e, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return "", False
        raise LedgerUnavailable(explain(e, path)) from e


def _end_after(conn: sqlite3.Connection, most_s: float) -> None:
    """Interrupt what the connection does once this time is over."""
    until_s = time.monotonic() + most_s
    conn.set_progress_handler(lambda: time.monotonic() > until_s, STEPS)
