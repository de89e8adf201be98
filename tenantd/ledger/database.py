"""Connections to the ledger's file, and explanations of SQLite's errors.

Trouble comes from outside: the disk is full, another program locks the file, it became read-only. It may
pass, so what must not be lost is retried. Any other error is a mistake in one job and only affects that job.
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
LOG_BYTES_KEPT: Final = 16 * 1024 * 1024  # truncate the log to this size after a long report made it grow

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
    """Whether an error came from outside and may pass. Errors of the Python module itself have no code; they are
    mistakes."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF not in _NO_TROUBLE


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the error means that the file is damaged."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGE


def unusable(error: sqlite3.Error, path: Path) -> LedgerUnavailable:
    """The exception for an error while opening the ledger: LedgerDamaged if the file is damaged."""
    kind = LedgerDamaged if is_damage(error) else LedgerUnavailable
    return kind(f"cannot use the ledger: {explain(error, path)}")


def explain(error: sqlite3.Error, path: Path) -> str:
    """Explain an error: what is wrong and what to do about it."""
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
    """Open the only connection that writes. Creates the file, readable only by its owner. Raises LedgerUnavailable.

    The Python module starts no transactions by itself; the writer uses BEGIN IMMEDIATE explicitly.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: tenantd needs 3.37 or later")
    try:
        # Create it before SQLite does, so that the write-ahead log gets the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        if path.stat().st_mode & 0o077:
            path.chmod(FILE_MODE)
    except OSError as e:
        raise LedgerUnavailable(f"cannot open the ledger {path}: {e.strerror}") from e
    conn = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS_CACHED, timeout=0
    )
    try:
        conn.execute(
            f"PRAGMA busy_timeout = {int(busy_timeout_ms)}"
        )  # first, otherwise the next statements fail on a lock
        (mode,) = conn.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigError(
                f"{path}: its file system does not support write-ahead logging ({mode}); choose a local folder"
            )
        conn.execute("PRAGMA synchronous = FULL")  # rows must survive a power cut before answers are sent
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}")
        conn.execute("PRAGMA trusted_schema = OFF")
        conn.execute("PRAGMA secure_delete = ON")  # what is deleted, such as a tenant's key for hashes, is overwritten
    except sqlite3.Error as e:
        conn.close()
        raise unusable(e, path) from e
    except BaseException:
        conn.close()
        raise
    return conn


def truncate_log(conn: sqlite3.Connection, wait_s: float, busy_timeout_ms: int) -> bool:
    """Move the content of the write-ahead log into the ledger and empty the log. Raises sqlite3.Error.

    Waits up to `wait_s` for readers. False if somebody still reads or writes; then it moves as much as
    possible. Afterwards sets the connection's busy timeout to `busy_timeout_ms`.
    """
    until_s = time.monotonic() + wait_s
    # SQLite itself waits for one lock, which a reader may release and take again forever; a new attempt notices
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
    """A connection for one report, which can only write to temporary tables. Raises sqlite3.Error."""
    # SQLite would create files beside a ledger, which a read-only medium does not let it; there nobody writes, either.
    is_copy = os.statvfs(path).f_flag & os.ST_RDONLY and not path.with_name(f"{path.name}-wal").exists()
    conn = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro{'&immutable=1' if is_copy else ''}",
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
