"""Maintains the ledger's files between transactions: keeps the log short, and saves files that were removed.

Everything runs in the writer's thread. SQLite itself moves the log into the ledger while it grows; this moves
the rest, so that a lost log never holds more than the last few seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from tenantd.errors import LedgerUnavailable
from tenantd.ledger.database import connect_writer, explain, truncate_log
from tenantd.ledger.files import Files, LogMissing, dated
from tenantd.ledger.long_reads import is_read_at_length

log = logging.getLogger(__name__)

QUIET_S: Final = 1.5
"""Empty the log when nothing has been written for this long."""
BUSY_S: Final = 5.0
"""How often to empty the log while rows are written all the time."""
WAITED_FOR_BYTES: Final = 8 * 1024 * 1024
"""Wait for readers before emptying a log of this size; otherwise one report after another could
prevent it from being emptied."""
PATIENCE_S: Final = 1.0
"""How long to wait for readers. A report's pieces take a fraction of this."""
LONG_LOG_S: Final = 0.5
"""How often to try meanwhile."""
GIVE_UP_S: Final = 30.0
"""After waiting in vain for a reader, do not wait again before this."""
LONG_LOG_BYTES: Final = 64 * 1024 * 1024
"""Warn about a log of this size, because somebody keeps a transaction open."""


class Upkeep:
    """The state of the files. The connection still belongs to the writer."""

    def __init__(self, path: Path, busy_timeout_ms: int) -> None:
        """Call it when SQLite has opened the file. Raises OSError."""
        self.files = Files(path)
        self.log_bytes = self.files.log_bytes
        self._busy_timeout_ms = busy_timeout_ms
        self._has_log = True  # the log may hold something that is not in the ledger
        self._written_s = self._emptied_s = time.monotonic()
        self._waits_from_s = 0.0
        self._failure = ""  # why the log could not be emptied last time
        self._is_long = False

    def keep_log_short(self, conn: sqlite3.Connection, *, is_idle: bool) -> None:
        """Call it after each transaction, and now and then without one. Failure is not trouble: the rows are in the
        log."""
        now_s = time.monotonic()
        if not is_idle:
            self._has_log = True
            self._written_s = now_s
        self.log_bytes = self.files.log_bytes
        pause_s = BUSY_S if self.log_bytes < WAITED_FOR_BYTES else LONG_LOG_S
        if self._has_log and (now_s - self._written_s >= QUIET_S or now_s - self._emptied_s >= pause_s):
            self._emptied_s = now_s
            self.save_log(conn)
            self.log_bytes = self.files.log_bytes
        if self._is_long != (self.log_bytes >= LONG_LOG_BYTES):
            self._is_long = not self._is_long
            if self._is_long:
                log.warning(
                    "%s has grown to %d MB and cannot be emptied: a program holds a transaction open on the ledger",
                    self.files.log_path,
                    self.log_bytes // 1_000_000,
                )

    def save_log(self, conn: sqlite3.Connection) -> bool:
        """Move the content of the log into the ledger. False if that must be retried."""
        if not self._has_log:
            return True
        failure = "it is being read"
        waits = (
            self.files.log_bytes >= WAITED_FOR_BYTES
            and time.monotonic() >= self._waits_from_s
            and not is_read_at_length(self.files.path)
        )
        try:
            if truncate_log(conn, PATIENCE_S if waits else 0.0, self._busy_timeout_ms):
                self._has_log, self._failure = False, ""
                return True
            if waits:
                self._waits_from_s = time.monotonic() + GIVE_UP_S
        except sqlite3.Error as e:
            failure = explain(e, self.files.path)
            if failure != self._failure:
                log.warning("cannot empty the write-ahead log: %s", failure)
        self._failure = failure
        return False

    def begin_new_log(self, conn: sqlite3.Connection, why: LogMissing) -> sqlite3.Connection:
        """Move the content of a log that has lost its name, but is still open, into the ledger, and start a new log.

        Returns the connection that replaces `conn`. Raises LogMissing if that must be retried.
        """
        self._has_log = True
        if not self.save_log(conn):
            raise why
        with contextlib.suppress(FileNotFoundError):  # its replacement holds nothing that is not saved
            self.files.log_path.unlink()
        try:
            fresh = connect_writer(self.files.path, self._busy_timeout_ms)
        except LedgerUnavailable as e:
            raise LogMissing(e.message) from e
        conn.close()
        self.files.log_reopened()
        log.warning("the content of %s has been saved in the ledger, and a new log was started", self.files.log_path)
        return fresh

    def close(self, conn: sqlite3.Connection) -> None:
        """Empty the log and close. Saves what can be saved of a deleted ledger."""
        self._has_log = True
        if not self.save_log(conn):  # nothing is lost: the next open reads the log
            log.warning("the write-ahead log stays beside the ledger: %s", self._failure)
        try:
            if self.files.is_deleted:
                self._write_again(conn)
        except (sqlite3.Error, OSError) as e:
            log.error("%s was deleted and cannot be written again: %s", self.files.path, e)
        conn.close()
        self.files.close()

    def _write_again(self, conn: sqlite3.Connection) -> None:
        """Save an open ledger that has no name any more. Raises sqlite3.Error, OSError."""
        path = self.files.path
        if path.exists():  # another ledger exists by now
            path = dated(path.parent, "ledger-rescued", ".db")
        else:
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        conn.execute("VACUUM INTO ?", (str(part),))
        os.chmod(part, 0o600)
        _sync(part)
        os.link(part, path)  # unlike rename, this never replaces a file
        part.unlink()
        _sync(path.parent)
        log.error("%s was deleted while tenantd was running; its content has been written to %s", self.files.path, path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
