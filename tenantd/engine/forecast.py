"""Tells in which order waiting requests will be bound and when they will get their first token, once a second at most.

That is found by a rehearsal, a little in each step, so that it holds nobody up: with about forty waiting, it takes two
or three seconds. Pure; the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tenantd.engine.jobs import Job
from tenantd.engine.lengths import Lengths
from tenantd.engine.rehearsal import Rehearsal
from tenantd.engine.returns import Returns, Size
from tenantd.engine.scheduler import Scheduler
from tenantd.wire.messages import Outlook, Submit

INTERVAL_S: Final = 1.0
SOON_S: Final = 0.05
"""After which those that came together are all here."""
MOST_ORDERED: Final = 256
"""The order reported to the daemon covers at most this many waiting requests."""
LEAST_PART: Final = 100
"""At most a hundredth of the time is spent on this: in each step, a hundredth of the time since the last."""
LEAST_STEP_S: Final = 0.0005
"""But a step may be held up by this, or by one turn of a rehearsal, which rests for it afterwards."""
MOST_STEP_S: Final = 0.005


class Forecast:
    """The rehearsal that goes on, and what the last one found."""

    def __init__(self, scheduler: Scheduler, clock_s: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._clock_s = clock_s
        self._lengths = Lengths()
        self._returns = Returns()
        self._due_s = self._rested_s = 0.0
        self._began_s = 0.0  # the rehearsal
        self._last_s = 0.0  # step
        self._rehearsal: Rehearsal | None = None
        self._spent_s = 0.0  # on it
        self._order: list[int] = []  # as last told

    def came(self, submit: Submit) -> None:
        """A request has come. If it is the first to wait, what it can expect is told soon."""
        now_s = self._clock_s()
        size = Size(len(submit.prompt), submit.max_tokens, submit.adapter)
        self._returns.came(submit.tenant, size, now_s)
        if not self._order:
            self._due_s = max(self._rested_s, min(self._due_s, now_s + SOON_S))

    def ended(self, job: Job) -> None:
        """A request that had a slot has ended."""
        self._lengths.ended(job)
        self._returns.ended(job, self._clock_s())

    def forget(self, tenant: str) -> None:
        """Forget a removed tenant."""
        self._lengths.forget(tenant)
        self._returns.forget(tenant)

    def go_on(self) -> tuple[list[int] | None, Outlook | None]:
        """Spend a little time. Returns the order if it is another than was told before, and what is to be told of
        waits: neither until a rehearsal has ended."""
        began_s = self._clock_s()
        budget_s = min(MOST_STEP_S, max(LEAST_STEP_S, (began_s - self._last_s) / LEAST_PART))
        self._last_s = began_s
        if self._scheduler.is_idle:
            self._rehearsal = None
            return self._changed([]), None
        now_s, goes_on = began_s, True
        if self._rehearsal is None:
            if began_s < self._due_s:
                return None, None
            self._began_s, self._due_s, self._spent_s = began_s, began_s + INTERVAL_S, 0.0
            if (begun := self._begin(began_s)) is None:
                return self._changed([]), None
            self._rehearsal, now_s = begun, self._clock_s()  # with many tenants, that alone takes a while
        while goes_on and now_s - began_s < budget_s:
            goes_on = self._rehearsal.go_on()
            now_s = self._clock_s()
        self._spent_s += now_s - began_s
        if goes_on:
            return None, None
        found, self._rehearsal = self._rehearsal, None
        self._rested_s = self._began_s + LEAST_PART * self._spent_s
        self._due_s = max(self._due_s, self._rested_s)
        return self._changed(found.order(MOST_ORDERED)), found.outlook(now_s)

    def _begin(self, now_s: float) -> Rehearsal | None:
        """None if everybody has a slot and a token."""
        sharing, active = self._scheduler.sharing, list(self._scheduler.active.values())
        if all(job.generated for job in active) and not any(tenant.queue for tenant in sharing.tenants.values()):
            return None
        self._lengths.draw_anew()
        return Rehearsal(sharing, active, self._scheduler.slack, self._lengths, self._returns.expected(now_s), now_s)

    def _changed(self, order: list[int]) -> list[int] | None:
        told, self._order = self._order, order
        return None if order == told else order
