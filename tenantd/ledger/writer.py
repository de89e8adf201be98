"""The only thread that writes the ledger. It runs what waits, MOST_AT_ONCE jobs at most, and commits once for them all.

Each job runs in its own savepoint, so a mistake in one undoes only that one. Trouble with the file (disk full,
locked, read-only, files removed) undoes the whole transaction: jobs that can be refused are refused with
LedgerUnavailable; settlements, checkpoints, prices and audit entries stay queued and are retried, with back-off, for as
long as it takes. Because a failed transaction is rolled back completely before anything is retried, nothing is ever
applied twice.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from tenantd.clock import now_micros
from tenantd.domain import Usage
from tenantd.errors import LedgerUnavailable
from tenantd.ledger.audit import MISSED, AuditBroken, Entry, append
from tenantd.ledger.database import explain, is_trouble
from tenantd.ledger.files import LogMissing, MissingFile
from tenantd.ledger.requests import checkpoint_request
from tenantd.ledger.unsettled import Unsettled, set_aside, set_entries_aside
from tenantd.ledger.upkeep import Upkeep
from tenantd.ledger.work import Job, appending, refuse, tell

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_WAITING: Final = 10_000
"""Maximum waiting jobs that can be refused. Settlements never are; there is at most one per admission."""
MOST_ENTRIES: Final = 10_000
"""Maximum audit entries that wait, besides those of jobs. Further ones are counted, and the count is recorded."""
MOST_AT_ONCE: Final = 1000
"""Jobs of one transaction. Else it would take seconds when a tenant with thousands of requests is removed, and nobody
could tell it from a disk that hangs."""
FIRST_RETRY_S: Final = 0.1
SLOWEST_RETRY_S: Final = 2.0
PROBE_BYTES: Final = 65_536
LOOK_INTERVAL_S: Final = 0.5
"""How often an idle writer maintains its files."""


class Writer:
    """The writing connection, its thread, and everything that waits to be written."""

    def __init__(self, conn: sqlite3.Connection, path: Path, busy_timeout_ms: int) -> None:
        """Raises OSError if the file cannot be accessed."""
        self.trouble = ""  # why the ledger cannot be written; "" if it can
        self.damage = ""  # damage found in the file; then nothing new is started
        self.only_logged = 0  # settlements that could not even be set aside
        self._conn = conn
        self._path = path
        self._upkeep = Upkeep(path, busy_timeout_ms)
        self._changed = threading.Condition()  # guards everything below
        self._jobs: deque[Job] = deque()
        self._taken: list[Job] = []  # off the queue and not committed yet
        self._stuck_since_s: float | None = None  # since when all attempts to commit have failed
        self._checkpoints: dict[str, Usage] = {}
        self._entries = 0  # how many wait in jobs of their own
        self._missed = 0  # entries that there was no room for, and no record of yet
        self._close_by_s: float | None = None  # set on close: flush until then
        # A daemon thread, so that a process can exit without closing it: the file is safe at any moment.
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    # -- any thread

    def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        future: asyncio.Future[T] | None,
        *,
        keep: bool,
        record: Callable[[], Unsettled] | None = None,
        adds: Callable[[], list[Entry]] | None = None,
    ) -> None:
        """Queue a job. Raises LedgerUnavailable if closed, or (unless the job is kept) in trouble or overrun.

        What `record` returns is set aside for the next start if the job has not succeeded by the end. What `adds`
        returns once it has succeeded is appended to the audit trail in the same transaction.
        """
        with self._changed:
            if self._close_by_s is not None:
                raise LedgerUnavailable(
                    f"the ledger is closed: {self.trouble}" if self.trouble else "the ledger is closed"
                )
            if not keep:
                if trouble := self.trouble or self.damage:
                    raise LedgerUnavailable(f"cannot write the ledger: {trouble}")
                if len(self._jobs) >= MAX_WAITING:
                    raise LedgerUnavailable(f"the ledger is behind: {len(self._jobs)} writes are waiting")
            self._jobs.append(Job(work, future, is_kept=keep, record=record, adds=adds))
            self._changed.notify()

    def checkpoint(self, usages: dict[str, Usage]) -> None:
        """Queue the usage of running requests; only the latest of each is written. Ignored once closed."""
        with self._changed:
            if self._close_by_s is None:
                self._checkpoints.update(usages)
                self._changed.notify()

    def audit(self, entries: Sequence[Entry]) -> None:
        """Queue entries that can be stored, in order with jobs. Ignored once closed.

        They wait for the next transaction, or LOOK_INTERVAL_S, because one of their own would hold up what comes next.
        """
        with self._changed:
            if self._close_by_s is None:
                room = max(0, MOST_ENTRIES - self._entries)
                taken = list(entries[:room])
                if len(taken) < len(entries) and not self._missed:
                    log.error("%d entries of the audit trail wait; further ones are only counted", MOST_ENTRIES)
                self._entries += len(taken)
                self._missed += len(entries) - len(taken)
                if self._jobs and self._jobs[-1].entries:
                    self._jobs[-1].entries.extend(taken)
                elif taken:
                    self._jobs.append(appending(taken))

    def close(self, timeout_s: float) -> None:
        """Refuse new jobs; write what waits, retrying for at most `timeout_s`. Returns at once; see `join`."""
        with self._changed:
            if self._close_by_s is None:
                self._close_by_s = time.monotonic() + timeout_s
            self._changed.notify()

    def check_files(self) -> None:
        """Raises MissingFile."""
        self._upkeep.files.check()

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log when the writer last looked."""
        return self._upkeep.log_bytes

    @property
    def stuck_s(self) -> float:
        """For how long all attempts to write have failed; 0 if the last one succeeded."""
        since_s = self._stuck_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def set_aside(self) -> None:
        """Set aside unwritten settlements and entries. If some are still written, the next start finds them written."""
        with self._changed:
            jobs = [*self._taken, *self._jobs]
        self._set_aside(jobs)

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended and the file is closed; do not wait for a thread that hangs in a write."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("a write to %s is stuck", self._path)
            self.set_aside()

    # -- the writer's thread

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        try:
            while self._wait_for_work():
                if self._write_waiting():
                    retry_s = FIRST_RETRY_S
                elif self._pause(retry_s):
                    retry_s = min(2 * retry_s, SLOWEST_RETRY_S)
                else:
                    break
        except Exception:
            log.exception("the ledger's writer failed")
        self._give_up_rest()
        self._close_file()

    def _wait_for_work(self) -> bool:
        """Wait for work. False on close once everything is written. In trouble there is always work: to test the file.

        Also returns when it is time to maintain the files.
        """
        with self._changed:
            if not (self._has_work or self.trouble or self._close_by_s is not None) or self._can_wait:
                self._changed.wait(LOOK_INTERVAL_S)
            return self._close_by_s is None or self._has_work

    @property
    def _has_work(self) -> bool:
        return bool(self._jobs or self._checkpoints or self._missed)

    @property
    def _can_wait(self) -> bool:
        """Whether only entries wait."""
        is_closing = self._close_by_s is not None
        return len(self._jobs) == 1 and bool(self._jobs[0].entries) and not (self._checkpoints or is_closing)

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt. False if the time for closing is over. New jobs do not shorten the wait."""
        until_s = time.monotonic() + seconds
        with self._changed:
            while (now_s := time.monotonic()) < until_s:
                if self._close_by_s is not None:
                    if now_s >= self._close_by_s:
                        return False
                    until_s = min(until_s, self._close_by_s)
                self._changed.wait(until_s - now_s)
            return self._close_by_s is None or time.monotonic() < self._close_by_s

    def _write_waiting(self) -> bool:
        """Run what waits in one transaction. False if it was undone because of trouble."""
        with self._changed:
            first = [self._jobs.popleft() for _ in range(min(len(self._jobs), MOST_AT_ONCE))]
            jobs = [job for job in first if not job.is_unwanted]
            self._taken = jobs
            checkpoints: dict[str, Usage] = {}
            if not self._jobs:  # else a row that they are about may not be there yet
                checkpoints, self._checkpoints = self._checkpoints, {}
            self._entries -= sum(len(job.entries) for job in first)
            missed = self._missed
        is_idle = not (jobs or checkpoints or missed or self.trouble)
        if not is_idle and self._stuck_since_s is None:
            self._stuck_since_s = time.monotonic()
        try:
            self._check_files()
            if not is_idle:
                self._transact(jobs, checkpoints, _noted(missed))
        except (sqlite3.Error, MissingFile, AuditBroken) as e:
            self._undo()
            self._put_back(jobs, checkpoints, explain(e, self._path) if isinstance(e, sqlite3.Error) else str(e))
            return False
        except Exception:  # a bug: the thread ends, and `_give_up_rest` tells all waiters
            with self._changed:
                self._jobs.extendleft(reversed(jobs))
                self._taken = []
            raise
        with self._changed:
            was_in_trouble, self.trouble = bool(self.trouble), ""
            self._taken, self._stuck_since_s = [], None
            self._missed = max(0, self._missed - missed)  # by now they may have been set aside
        if was_in_trouble:
            log.warning("the ledger can be written again")
        tell(jobs)
        self._upkeep.keep_log_short(self._conn, is_idle=is_idle)
        return True

    def _check_files(self) -> None:
        """Raises MissingFile. A removed log is replaced at the second check; the first one reports it."""
        try:
            self._upkeep.files.check()
        except LogMissing as e:
            if not self.trouble:
                raise
            self._conn = self._upkeep.begin_new_log(self._conn, e)
        except MissingFile:
            self._upkeep.save_log(self._conn)
            raise

    def _transact(self, jobs: list[Job], checkpoints: dict[str, Usage], entries: list[Entry]) -> None:
        """Run jobs in a transaction. Raises sqlite3.Error or AuditBroken for trouble; the caller then rolls back."""
        conn = self._conn
        if conn.in_transaction:  # the rollback of the last attempt failed too
            conn.execute("ROLLBACK")
        conn.execute("BEGIN IMMEDIATE")
        if not (jobs or checkpoints or entries):
            self._probe()
        added: list[Entry] = []  # appended together, because the head of the trail is then read and written only once
        for job in jobs:
            if added and job.adds is None:
                append(conn, added)
                added = []
            self._run_job(job)
            if job.adds is not None and job.error is None:
                added += job.adds()
        append(conn, [*added, *entries])
        # Last, so that rows admitted in this batch exist; settled rows are ignored.
        for request_id, usage in checkpoints.items():
            try:
                checkpoint_request(conn, request_id, usage)
            except (sqlite3.Error, OverflowError) as e:
                if isinstance(e, sqlite3.Error) and is_trouble(e):
                    raise
                log.error("request %s: cannot record %r: %s", request_id, usage, e)
        conn.execute("COMMIT")

    def _run_job(self, job: Job) -> None:
        """Run one job. Raises sqlite3.Error and AuditBroken for trouble; a mistake is undone and recorded in the
        job."""
        conn = self._conn
        job.result = job.error = None
        conn.execute("SAVEPOINT job")
        try:
            job.result = job.work(conn)
        except Exception as e:
            if isinstance(e, AuditBroken) or (isinstance(e, sqlite3.Error) and is_trouble(e)):
                raise
            job.error = e
            conn.execute("ROLLBACK TO job")
        conn.execute("RELEASE job")

    def _probe(self) -> None:
        """Test the file by writing several pages, which fail on a full disk."""
        self._conn.execute("INSERT INTO probe VALUES (randomblob(?))", (PROBE_BYTES,))
        self._conn.execute("DELETE FROM probe")

    def _undo(self) -> None:
        """Roll back, unless that has happened or no transaction was started."""
        if self._conn.in_transaction:
            try:
                self._conn.execute("ROLLBACK")
            except sqlite3.Error as e:  # retried before the next transaction starts
                log.error("the ledger could not roll back: %s", explain(e, self._path))

    def _put_back(self, jobs: list[Job], checkpoints: dict[str, Usage], trouble: str) -> None:
        """Keep what must not be lost, in order and before newer jobs; refuse the rest."""
        with self._changed:
            if trouble != self.trouble:
                log.error("cannot write the ledger: %s", trouble)
            self.trouble = trouble
            self._stuck_since_s = self._stuck_since_s or time.monotonic()
            self._taken = []
            every = [*jobs, *self._jobs]
            self._jobs = deque(job for job in every if job.is_kept)
            self._checkpoints = {**checkpoints, **self._checkpoints}
            self._entries = sum(len(job.entries) for job in self._jobs)
        refused = [job for job in every if not job.is_kept]
        refuse(refused, f"cannot write the ledger: {trouble}")

    def _give_up_rest(self) -> None:
        """At the end, set aside settlements for the next start, and tell everybody who still waits."""
        with self._changed:
            if self._close_by_s is None:  # the thread died of a bug; accept no more jobs
                self._close_by_s = time.monotonic()
                self.trouble = "its writer has stopped; restart tenantd"
            jobs, self._jobs = list(self._jobs), deque()
            trouble = self.trouble or "it was closed"
        if jobs:
            log.error("gave up %d writes: %s", len(jobs), trouble)
        self._set_aside(jobs)
        refuse(jobs, f"cannot write the ledger: {trouble}")

    def _set_aside(self, jobs: list[Job]) -> None:
        with self._changed:  # two threads may come here
            records = [job.record for job in jobs if job.record is not None]
            entries = [entry for job in jobs for entry in job.entries] + _noted(self._missed)
            self._missed = 0
            for job in jobs:
                job.record, job.entries = None, []
        self.only_logged += set_aside(self._path.parent, [record() for record in records])
        set_entries_aside(self._path.parent, entries)

    def _close_file(self) -> None:
        self._undo()
        self._upkeep.close(self._conn)


def _noted(missed: int) -> list[Entry]:
    """What says in the trail that so many entries are missing from it."""
    return [Entry(at_micros=now_micros(), event=MISSED, detail={"count": missed})] if missed else []
