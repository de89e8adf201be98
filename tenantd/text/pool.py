"""Threads that process clients' texts: validate, render, tokenise. Fair between tenants.

A tenant's jobs run one after the other, in order of arrival; tenants take turns. One tenant never occupies
more than one thread, so another tenant's text starts at once even while a long one is processed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from tenantd.errors import Draining, QueueFull

THREADS: Final = 3
MOST_WAITING: Final = 4096
"""Maximum waiting jobs of one tenant. Their memory is limited separately."""
MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Maximum memory of one tenant's waiting jobs, unless there is only one."""
ADMINISTRATORS: Final = "(administrators)"
"""Whose turn the jobs of administrators take. No tenant can have this name."""

T = TypeVar("T")


class _Job:
    """`size_bytes` is the memory that the job holds while it waits."""

    __slots__ = ("future", "loop", "size_bytes", "work")

    def __init__(self, work: Callable[[], Any], size_bytes: int) -> None:
        self.work = work
        self.size_bytes = size_bytes
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def run(self) -> None:
        try:
            result = self.work()
        except BaseException as e:
            self._tell(self._fail, e)
        else:
            self._tell(self._succeed, result)

    def _tell(self, how: Callable[[Any], None], what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(how, what)

    def _succeed(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class TextPool:
    """Use it from event loops; `close` waits for running jobs."""

    def __init__(
        self,
        threads: int = THREADS,
        *,
        most_waiting: int = MOST_WAITING,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self._most_waiting = most_waiting
        self._most_waiting_bytes = most_waiting_bytes
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()  # in order of turns
        self._running: set[str] = set()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"text-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, tenant: str, work: Callable[[], T], size_bytes: int = 0) -> T:
        """Run `work` in a thread. If the caller is cancelled while the work waits, it never runs.

        Raises QueueFull if too much of this tenant's work already waits, Draining once the pool is closed.
        """
        job = _Job(work, size_bytes)
        with self._changed:
            if self._is_closed:
                raise _draining()
            jobs = self._waiting.get(tenant, ())
            held_bytes = sum(waiting.size_bytes for waiting in jobs) if size_bytes else 0
            if len(jobs) >= self._most_waiting or (held_bytes and held_bytes + size_bytes > self._most_waiting_bytes):
                raise QueueFull(
                    f"tenant {tenant} has {len(jobs)} requests waiting to be read; try again later",
                    retry_after_s=1,
                )
            self._waiting.setdefault(tenant, deque()).append(job)
            self._changed.notify()
        try:
            result: T = await job.future
            return result
        except asyncio.CancelledError:
            self._forget(tenant, job)
            raise

    def close(self) -> None:
        """Refuse waiting jobs, and wait for running ones. Safe to call twice, but not from a job."""
        with self._changed:
            self._is_closed = True
            left = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
            self._changed.notify_all()
        for job in left:
            job._tell(job._fail, _draining())
        for thread in self._threads:
            thread.join()

    def _forget(self, tenant: str, job: _Job) -> None:
        with self._changed:
            jobs = self._waiting.get(tenant)
            if jobs is not None and job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._waiting[tenant]

    def _serve(self) -> None:
        while (turn := self._next()) is not None:
            tenant, job = turn
            job.run()
            del turn, job  # free its memory before waiting for the next job
            with self._changed:
                self._running.discard(tenant)
                self._changed.notify()

    def _next(self) -> tuple[str, _Job] | None:
        """The first job of the tenant whose turn it is; None once the pool is closed."""
        with self._changed:
            while True:
                if self._is_closed:
                    return None
                for tenant, jobs in self._waiting.items():
                    if tenant not in self._running:
                        return tenant, self._take(tenant, jobs)
                self._changed.wait()

    def _take(self, tenant: str, jobs: deque[_Job]) -> _Job:
        job = jobs.popleft()
        self._running.add(tenant)
        if jobs:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
        return job


def _draining() -> Draining:
    return Draining("the daemon is shutting down and accepts no new requests")
