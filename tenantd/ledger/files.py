"""Checks that the ledger's files are still the ones that were opened.

SQLite keeps writing to its open files, whatever happens to their names. Rows written to a file that was
deleted, moved away or replaced would be lost, so the writer checks before each transaction.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Final

LOG_SUFFIX: Final = "-wal"
Identity = tuple[int, int]  # device and inode


def dated(folder: Path, what: str, ending: str = "") -> Path:
    """An unused name for a file: `what` and the present second, with a number if that second has been used already."""
    first = f"{what}-{time.strftime('%Y%m%d-%H%M%S')}"
    others = (f"{first}-{number}" for number in itertools.count(2))
    names = (folder / f"{name}{ending}" for name in itertools.chain([first], others))
    return next(name for name in names if not os.path.lexists(name))


class MissingFile(Exception):
    """The name points nowhere, or to a file other than the open one. The message says what to do."""


class LogMissing(MissingFile):
    """Only the write-ahead log is affected; its content can still be saved in the ledger."""


class Files:
    """The identity of the ledger and its write-ahead log, taken when they were opened.

    Keeps the ledger open too: so its inode number cannot be reused, and a moved file can be told from
    a deleted one.
    """

    def __init__(self, path: Path) -> None:
        """Call it when SQLite has opened both files. Raises OSError."""
        self.path = path
        self.log_path = path.with_name(path.name + LOG_SUFFIX)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._ledger = _identity(os.fstat(self._fd))
        self._log = identity_of(self.log_path)

    def log_reopened(self) -> None:
        """Call it when SQLite has started a new log."""
        self._log = identity_of(self.log_path)

    def check(self) -> None:
        """Check both files with two calls of stat(2). Raises MissingFile, LogMissing."""
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
        """Size of the write-ahead log; 0 if it does not exist."""
        try:
            return self.log_path.stat().st_size
        except OSError:
            return 0

    @property
    def is_deleted(self) -> bool:
        """Whether the open ledger has no name left, so that closing it would delete it."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        """Call it after SQLite has closed the file, because closing a file releases all locks of the process on it."""
        os.close(self._fd)
        self._fd = -1

    def _explain(self, found: Identity | None) -> str:
        if self.is_deleted:
            return (
                f"{self.path} was deleted while tenantd is running; tenantd still has it open; "
                "stop tenantd, which then writes the file again"
            )
        if found is None:
            return f"{self.path} was moved away while tenantd is running; move the same file back to continue"
        return (
            f"{self.path} was replaced by another file while tenantd is running; move the original "
            "back, or restart tenantd to use the new one"
        )


def identity_of(path: Path) -> Identity | None:
    """Identity of a file; None if it does not exist. Raises OSError if it cannot be accessed."""
    try:
        return _identity(path.stat())
    except FileNotFoundError:
        return None


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino
