"""Whose engine time it is that passes between forward passes: saving, restoring, copying, swapping and clearing.

It is measured by the loop's clock around the work, and is the request's for which the work is done. What is done within
other work, for somebody else, is that one's alone.

It is billed, but is no usage: what a prefix saves is charged as cached tokens, and a request is swapped out for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tenantd.engine.jobs import Job
from tenantd.engine.scheduler import Scheduler


class Upkeep:
    """Measures such work, and books it with the scheduler, which tells it with the next step."""

    def __init__(self, scheduler: Scheduler, clock_s: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._clock_s = clock_s
        self._inner_s = 0.0  # measured within what is being measured, and booked

    @contextmanager
    def of(self, job: Job | None) -> Iterator[None]:
        """What is done meanwhile is for this request, which has a sequence or had one; None: for nobody."""
        outer_s, self._inner_s = self._inner_s, 0.0
        began_s = self._clock_s()
        try:
            yield
        finally:
            took_s = self._clock_s() - began_s
            self._scheduler.worked(job, round((took_s - self._inner_s) * 1e6), is_usage=False)
            self._inner_s = outer_s + took_s

    def of_owner(self, owner: int) -> AbstractContextManager[None]:
        """What is done meanwhile is for what this owner left: it is its oldest running request's, if it has one."""
        jobs = (job for job in self._scheduler.active.values() if job.key is not None and job.key.owner == owner)
        return self.of(min(jobs, key=lambda job: job.arrival, default=None))
