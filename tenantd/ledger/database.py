"""Connections to the ledger's file, and what SQLite's errors mean for people.

Trouble is what the outside does to the file: the disk is full, another program locks it, it became read-only. It may
pass, so what must not be lost is tried again. Every other error is a mistake in one piece of work and stays with it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tenantd.errors import ConfigError, LedgerDamaged, LedgerUnavailable

FILE_MODE: Final = 0o600
OLDEST_SQLITE: Final = (3, 37, 0)  # STRICT tables
STATEMENTS_CACHED: Final = 64
ATTEMPT_INTERVAL_S: Final = 0.005
LOG_BYTES_KEPT: Final = 16 * 1024 * 1024  # a log that a long report made grow is cut back to this

RESTORE: Final = "stop tenantd and restore a backup; `sqlite3 ledger.db .recover` reads what can still be read"
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NO_TROUBLE: Final = {
    sqlite3.SQLITE_ERROR,  # wrong SQL, or a sum over 64 bits
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}


def is_trouble(error: sqlite3.Error) -> bool:
    """It came from outside and may pass. Errors of the Python module itself carry no code and are mistakes."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF not in _NO_TROUBLE


def is_damage(error: sqlite3.Error) -> bool:
    """The file does not hold what SQLite has written to it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGE


def unusable(error: sqlite3.Error, path: Path) -> LedgerUnavailable:
    """What keeps the ledger from being opened: LedgerDamaged if it is damage."""
    kind = LedgerDamaged if is_damage(error) else LedgerUnavailable
    return kind(f"cannot use the ledger: {explain(error, path)}")


def explain(error: sqlite3.Error, path: Path) -> str:
    """What is wrong and what to do about it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    detail = f"{error} ({getattr(error, 'sqlite_errorname', 'no code')})"
    match code:
        case sqlite3.SQLITE_FULL:
            return f"no space left for {path}; free some space on its disk: {detail}"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"another program holds a lock on {path}; close it: {detail}"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return f"cannot open {path} for writing; check the permissions of the file and its folder: {detail}"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"{path} is damaged; {RESTORE}: {detail}"
        case sqlite3.SQLITE_IOERR:
            return f"input/output error on {path}; check its disk: {detail}"
        case _:
            return f"{path}: {detail}"


def connect_writer(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    """The one connection that writes. Creates the file, readable by its owner only. Raises LedgerUnavailable.

    The Python module begins no transactions of its own: the writer says BEGIN IMMEDIATE where it means it.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: tenantd needs 3.37 or later")
    try:
        # Made before SQLite sees it: the write-ahead log then gets the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        if path.stat().st_mode & 0o077:
            path.chmod(FILE_MODE)
    except OSError as e:
        raise LedgerUnavailable(f"cannot open the ledger {path}: {e.strerror}") from e
    conn = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS_CACHED, timeout=0
    )
    try:
        conn.execute(f"PRAGMA busy_timeout = {int(busy_timeout_ms)}")  # first, or the next ones fail on a lock
        (mode,) = conn.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigError(
                f"{path}: its file system does not support write-ahead logging ({mode}); choose a local folder"
            )
        conn.execute("PRAGMA synchronous = FULL")  # an answer is sent because its row survives a power cut
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}")
        conn.execute("PRAGMA trusted_schema = OFF")
    except sqlite3.Error as e:
        conn.close()
        raise unusable(e, path) from e
    except BaseException:
        conn.close()
        raise
    return conn


def truncate_log(conn: sqlite3.Connection, wait_s: float, busy_timeout_ms: int) -> bool:
    """Move what the write-ahead log holds into the ledger and empty the log. Raises sqlite3.Error.

    Waits at most `wait_s` for those who read. False when somebody still does, or writes; as much as can be moved is
    moved. `busy_timeout_ms` is the connection's afterwards.
    """
    until_s = time.monotonic() + wait_s
    # SQLite's own waiting is for one lock, which a reader may give back and take again for ever; a fresh attempt finds
    # that the reader has moved on.
    conn.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            (is_busy, _, _) = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not is_busy or time.monotonic() >= until_s:
                return not is_busy
            time.sleep(ATTEMPT_INTERVAL_S)
    finally:
        conn.execute(f"PRAGMA busy_timeout = {int(busy_timeout_ms)}")


def connect_reader(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    """A connection that cannot write to the ledger, for one report: only to temporary tables. Raises sqlite3.Error."""
    conn = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=0,
    )
    try:
        conn.execute(f"PRAGMA busy_timeout = {int(busy_timeout_ms)}")
    except BaseException:
        conn.close()
        raise
    return conn
