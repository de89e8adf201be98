"""Are the ledger's files still the ones that were opened?

SQLite goes on writing to the files it has open, whatever becomes of their names. Rows written to a file that was
deleted, moved away or replaced are rows nobody will find, so the writer asks before each transaction.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LOG_SUFFIX: Final = "-wal"
Identity = tuple[int, int]  # device and inode


class MissingFile(Exception):
    """The name leads nowhere, or to another file than the one that is open. The message says what to do."""


class LogMissing(MissingFile):
    """Only the write-ahead log is concerned: what it holds can be saved into the ledger itself."""


class Files:
    """The identity of the ledger and its write-ahead log, taken when they were opened.

    The ledger is kept open here as well: that keeps its inode number from being given to another file, and tells a
    file that was moved from one that was deleted.
    """

    def __init__(self, path: Path) -> None:
        """SQLite has both open. Raises OSError."""
        self.path = path
        self.log_path = path.with_name(path.name + LOG_SUFFIX)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._ledger = _identity(os.fstat(self._fd))
        self._log = identity_of(self.log_path)

    def log_reopened(self) -> None:
        """SQLite has begun another log."""
        self._log = identity_of(self.log_path)

    def check(self) -> None:
        """Two calls of stat(2). Raises MissingFile, LogMissing."""
        try:
            ledger, log = identity_of(self.path), identity_of(self.log_path)
        except OSError as e:
            raise MissingFile(f"cannot access {self.path}; check the permissions of its folder: {e}") from e
        if ledger != self._ledger:
            raise MissingFile(self._explain(ledger))
        if log != self._log:
            what = "was moved or deleted" if log is None else "was replaced by another file"
            raise LogMissing(f"{self.log_path} {what} while tenantd is running; its content is being saved")

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log; 0 when it is not there."""
        try:
            return self.log_path.stat().st_size
        except OSError:
            return 0

    @property
    def is_deleted(self) -> bool:
        """The ledger that is open has no name any more, anywhere: it is gone when it is closed."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        """After SQLite has closed it: closing a file gives up all locks that the process has on it."""
        os.close(self._fd)
        self._fd = -1

    def _explain(self, found: Identity | None) -> str:
        if self.is_deleted:
            return (
                f"{self.path} was deleted while tenantd is running; tenantd still has it open; "
                "stop tenantd, and it writes the file again as it stops"
            )
        if found is None:
            return f"{self.path} was moved away while tenantd is running; move the same file back to continue"
        return (
            f"{self.path} was replaced by another file while tenantd is running; move the original "
            "back, or restart tenantd to use the new one"
        )


def identity_of(path: Path) -> Identity | None:
    """None when there is no such file. Raises OSError when it cannot be looked at."""
    try:
        return _identity(path.stat())
    except FileNotFoundError:
        return None


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino
