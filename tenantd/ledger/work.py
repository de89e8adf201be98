"""Pieces of work for the ledger's writer, and how whoever waits for one learns what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from tenantd.errors import LedgerUnavailable
from tenantd.ledger.unsettled import Unsettled

log = logging.getLogger(__name__)


class Job:
    """One piece of work. `is_kept`: it is tried until it lands. `future` is who waits for it, if anyone.

    `record` is what is set aside when it never does.
    """

    __slots__ = ("error", "future", "is_kept", "record", "result", "work")

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], Any],
        future: asyncio.Future[Any] | None,
        *,
        is_kept: bool,
        record: Unsettled | None = None,
    ) -> None:
        self.record = record
        self.work = work
        self.future = future
        self.is_kept = is_kept
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def is_unwanted(self) -> bool:
        """Who waited has gone before it began. What is kept is done all the same."""
        return not self.is_kept and self.future is not None and self.future.cancelled()

    def tell(self) -> None:
        """Pass the outcome on. Runs on the loop of the future."""
        if self.future is None or self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def refuse(jobs: list[Job], message: str) -> None:
    for job in jobs:
        job.result, job.error = None, LedgerUnavailable(message)
    tell(jobs)


def tell(jobs: list[Job]) -> None:
    """Wake those who wait, each loop once for all of its jobs."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        if job.future is not None:
            loops.setdefault(job.future.get_loop(), []).append(job)
        elif job.error is not None:
            log.error("a background write failed", exc_info=job.error)
    for loop, group in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell_each, group)


def _tell_each(jobs: list[Job]) -> None:
    for job in jobs:
        job.tell()
