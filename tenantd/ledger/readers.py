"""Threads that read the ledger, in lanes, so that long reports do not delay lookups.

Each read has its own read-only connection and one snapshot. It ends early if nobody waits for it
any more.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from tenantd.errors import Draining, LedgerUnavailable, QueueFull
from tenantd.ledger.database import connect_reader, explain, is_trouble
from tenantd.ledger.files import MissingFile

T = TypeVar("T")

STEPS_BETWEEN_LOOKS: Final = 50_000
"""Instructions of SQLite's virtual machine (some milliseconds) between checks whether a read is still wanted."""


class Lane(StrEnum):
    """Kinds of reads, each with threads of its own."""

    DIRECTORY = "directory"  # the tenants and keys that requests are checked against
    LOOKUPS = "lookups"  # single rows, found by an index
    REPORTS = "reports"  # sums over a period, taking up to seconds in a large ledger
    TENANTS = "tenants' reports"  # what tenants ask of their own; they delay only each other


THREADS: Final = {Lane.DIRECTORY: 1, Lane.LOOKUPS: 2, Lane.REPORTS: 2, Lane.TENANTS: 2}
MOST_WAITING: Final = {Lane.DIRECTORY: 1024, Lane.LOOKUPS: 256, Lane.REPORTS: 16, Lane.TENANTS: 256}


class Readers:
    """The reading threads. Use it from event loops."""

    def __init__(self, path: Path, busy_timeout_ms: int, check_files: Callable[[], None]) -> None:
        """`check_files` raises MissingFile if the file at `path` is no longer the ledger."""
        self._path = path
        self._check_files = check_files
        self._busy_timeout_ms = busy_timeout_ms
        self._threads = {lane: ThreadPoolExecutor(n, f"ledger-{lane}") for lane, n in THREADS.items()}
        self._readings: dict[Lane, set[threading.Event]] = {lane: set() for lane in Lane}
        self._closed: set[Lane] = set()

    async def run(self, lane: Lane, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one snapshot. If cancelled, it never starts, or ends within milliseconds.

        Raises LedgerUnavailable, QueueFull if too many wait in this lane, Draining once it is closed.
        """
        if lane in self._closed:
            raise _draining()
        readings = self._readings[lane]
        if len(readings) >= THREADS[lane] + MOST_WAITING[lane]:
            message = f"{MOST_WAITING[lane]} {lane} are already waiting; try again when one is done"
            raise QueueFull(message, retry_after_s=10)
        unwanted = threading.Event()
        readings.add(unwanted)
        try:
            return await asyncio.wrap_future(self._threads[lane].submit(self._read, work, unwanted))
        except sqlite3.OperationalError:
            if lane in self._closed:
                raise _draining() from None
            raise
        finally:
            unwanted.set()
            readings.discard(unwanted)

    def end_reports(self) -> None:
        """Interrupt running reports and refuse new ones."""
        self._close(Lane.REPORTS)
        self._close(Lane.TENANTS)

    def close(self) -> None:
        """Interrupt everything and wait for its end. Safe to call again."""
        for lane in Lane:
            self._close(lane)
        for threads in self._threads.values():
            threads.shutdown(cancel_futures=True)

    def _close(self, lane: Lane) -> None:
        self._closed.add(lane)
        for unwanted in list(self._readings[lane]):
            unwanted.set()

    def _read(self, work: Callable[[sqlite3.Connection], T], unwanted: threading.Event) -> T:
        try:
            self._check_files()
            conn = connect_reader(self._path, self._busy_timeout_ms)
            try:
                # Not Connection.interrupt(), which has no effect between two statements of a report.
                conn.set_progress_handler(unwanted.is_set, STEPS_BETWEEN_LOOKS)
                conn.execute("BEGIN")  # one snapshot for all queries of `work`
                return work(conn)
            finally:
                conn.close()
        except sqlite3.Error as e:
            if unwanted.is_set() or not is_trouble(e):
                raise
            raise LedgerUnavailable(f"cannot read the ledger: {explain(e, self._path)}") from e
        except MissingFile as e:
            raise LedgerUnavailable(f"cannot read the ledger: {e}") from e


def _draining() -> Draining:
    return Draining("the daemon is shutting down and accepts no more reports")
