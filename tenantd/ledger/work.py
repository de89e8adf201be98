"""Jobs for the ledger's writer, and how their results reach whoever waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from tenantd.errors import LedgerUnavailable
from tenantd.ledger.audit import Entry
from tenantd.ledger.unsettled import Unsettled

log = logging.getLogger(__name__)


class Job:
    """One job. `is_kept`: retry it until it succeeds. `future` belongs to whoever waits for it, if anyone.

    `record` makes what is set aside if it never succeeds; any thread calls it. `adds` makes the entries of the audit
    trail that go with it, and does not fail. They are appended together with those of other jobs, in order; a job
    without it may append entries by itself.
    """

    __slots__ = ("adds", "entries", "error", "future", "is_kept", "record", "result", "work")

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], Any],
        future: asyncio.Future[Any] | None,
        *,
        is_kept: bool,
        record: Callable[[], Unsettled] | None = None,
        adds: Callable[[], list[Entry]] | None = None,
    ) -> None:
        self.entries: list[Entry] = []  # what it appends to the audit trail and nothing else; see `appending`
        self.adds = adds
        self.record = record
        self.work = work
        self.future = future
        self.is_kept = is_kept
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def is_unwanted(self) -> bool:
        """Whether the waiter left before the job started. Kept jobs are done anyway."""
        return not self.is_kept and self.future is not None and self.future.cancelled()

    def tell(self) -> None:
        """Deliver the result. Runs in the future's loop."""
        if self.future is None or self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def appending(entries: list[Entry]) -> Job:
    """A job that appends entries to the audit trail. More may be added until it is run."""
    job = Job(lambda conn: None, None, is_kept=True, adds=lambda: entries)
    job.entries = entries
    return job


def refuse(jobs: list[Job], message: str) -> None:
    for job in jobs:
        job.result, job.error = None, LedgerUnavailable(message)
    tell(jobs)


def tell(jobs: list[Job]) -> None:
    """Wake the waiters, each loop once for all of its jobs."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        if job.future is not None:
            loops.setdefault(job.future.get_loop(), []).append(job)
        elif job.error is not None:
            log.error("a background write failed", exc_info=job.error)
    for loop, group in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            loop.call_soon_threadsafe(_tell_each, group)


def _tell_each(jobs: list[Job]) -> None:
    for job in jobs:
        job.tell()
