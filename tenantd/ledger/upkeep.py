"""What the writer does for its files between transactions: keeps the log short, and saves what is taken away.

All of it runs in the writer's thread. SQLite moves the log into the ledger by itself while it grows; what it leaves,
this moves, so that a log that gets lost never holds more than the last few seconds.
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
from tenantd.ledger.files import Files, LogMissing

log = logging.getLogger(__name__)

QUIET_S: Final = 1.5
"""With nothing written for this long, the log is emptied."""
BUSY_S: Final = 5.0
"""While rows are written all the time, it is emptied this often."""
WAITED_FOR_BYTES: Final = 8 * 1024 * 1024
"""For a log of this size to be emptied, those who read are waited for; without that, one report after the other would
keep it from being emptied."""
PATIENCE_S: Final = 1.0
"""How long. A report reads in pieces that take a fraction of it."""
LONG_LOG_S: Final = 0.5
"""How often it is then tried."""
GIVE_UP_S: Final = 30.0
"""Whoever read for longer is not waited for again before this."""
LONG_LOG_BYTES: Final = 64 * 1024 * 1024
"""A log of this size is worth a warning: somebody keeps a transaction open."""


class Upkeep:
    """Owner of what is known about the files. The connection stays the writer's."""

    def __init__(self, path: Path, busy_timeout_ms: int) -> None:
        """SQLite has the file open. Raises OSError."""
        self.files = Files(path)
        self.log_bytes = self.files.log_bytes
        self._busy_timeout_ms = busy_timeout_ms
        self._has_log = True  # something may be in the log that is not in the ledger
        self._written_s = self._emptied_s = time.monotonic()
        self._waits_from_s = 0.0
        self._failure = ""  # why the log could not be emptied the last time
        self._is_long = False

    def keep_log_short(self, conn: sqlite3.Connection, *, is_idle: bool) -> None:
        """After each transaction, and now and then without one. Failing is not trouble: the rows are in the log."""
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
        """Move all that the log holds into the ledger. False when that must be tried again."""
        if not self._has_log:
            return True
        failure = "it is being read"
        waits = self.files.log_bytes >= WAITED_FOR_BYTES and time.monotonic() >= self._waits_from_s
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
        """A log that has lost its name is still open: move what it holds into the ledger, then begin another.

        Returns the connection that takes the place of `conn`. Raises LogMissing when it must be tried again.
        """
        self._has_log = True
        if not self.save_log(conn):
            raise why
        with contextlib.suppress(FileNotFoundError):  # what has taken its place holds nothing that is not saved
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
        """Empty the log and close. What can be saved of a ledger that was deleted is saved."""
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
        """The open ledger has no name any more. Raises sqlite3.Error, OSError."""
        path = self.files.path
        if path.exists():  # another ledger is there by now
            path = path.with_name(time.strftime("ledger-rescued-%Y%m%d-%H%M%S.db"))
        else:
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        conn.execute("VACUUM INTO ?", (str(part),))
        os.chmod(part, 0o600)
        _sync(part)
        os.link(part, path)  # unlike a renaming, this replaces nothing
        part.unlink()
        _sync(path.parent)
        log.error("%s was deleted while tenantd was running; its content has been written to %s", self.files.path, path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
