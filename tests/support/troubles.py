"""What happens to the ledger's file of a running daemon, for a while."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from tests.support.daemon import Daemon

Trouble = Callable[[Daemon], AbstractContextManager[None]]


def ledger_of(daemon: Daemon) -> Path:
    return daemon.folder / "state" / "ledger.db"


@contextmanager
def disk_full(daemon: Daemon) -> Iterator[None]:
    """No file of the daemon may grow: a write fails in the middle, as on a full disk."""
    with _limited(daemon, ledger_of(daemon).with_name("ledger.db-wal").stat().st_size):
        yield


@contextmanager
def no_room(daemon: Daemon) -> Iterator[None]:
    """Nothing at all can be written, wherever in its log the ledger is."""
    with _limited(daemon, 4096):
        yield


@contextmanager
def _limited(daemon: Daemon, size_bytes: int) -> Iterator[None]:
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)


@contextmanager
def locked(daemon: Daemon) -> Iterator[None]:
    """Another program is in the middle of a transaction."""
    other = sqlite3.connect(ledger_of(daemon), isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        other.close()


FULL = ("no space left", "input/output error")
SAYS = {disk_full: FULL, no_room: FULL, locked: ("another program holds a lock",)}


def says(trouble: Trouble, text: str) -> bool:
    """Whether a message names this trouble."""
    return any(words in text for words in SAYS[trouble])
