"""What happened since the last step, to be told with the next one: bindings, work between passes, ends, swaps.

Pure; the scheduler's `commit()` is the only one that tells.
"""

from __future__ import annotations

import msgspec

from tenantd.engine.charges import Charges
from tenantd.engine.compute import Swapped
from tenantd.engine.jobs import Job
from tenantd.wire.messages import Finish, Progress, Step


class Booking:
    """Collects what happens between two steps."""

    def __init__(self, charges: Charges) -> None:
        self._charges = charges
        self.finishes: list[Finish] = []
        self._timed: list[tuple[Job | None, int, bool]] = []  # engine time outside of passes, whose it is, if usage
        self._cached: list[tuple[Job, int]] = []  # requests with the prompt tokens that were computed before them
        self._taken: dict[int, tuple[int, int, float]] = {}  # by request: binding, sequence, when
        self._bound_changed = False
        self._swaps = self._recomputes = 0
        self._steps = 0

    def took(self, job: Job, sequence: int, now_s: float) -> None:
        """A request got a sequence, or another one instead of the one that it just got."""
        assert job.binding is not None
        self._bound_changed = True
        if (before := self._taken.get(job.submit.request)) is not None:
            now_s = before[2]
        self._taken[job.submit.request] = (job.binding, sequence, now_s)

    def left(self) -> None:
        """A request has no sequence any more."""
        self._bound_changed = True

    def swapped(self, job: Job, swapped: Swapped) -> None:
        """A request gave up its sequence for a while."""
        if swapped.size_bytes:
            self._swaps += 1
        elif job.computed and not job.ends:
            self._recomputes += 1

    def timed(self, job: Job | None, micros: int, *, is_usage: bool) -> None:
        """A binding, or other work outside of passes, took engine time. None: it is nobody's. `is_usage`: it counts in
        its tenant's usage, as prompt tokens that take as long."""
        if micros:
            self._timed.append((job, micros, is_usage))

    def cached(self, job: Job, prompt_tokens: int) -> None:
        """So many tokens of its prompt need not be computed."""
        if prompt_tokens:
            self._cached.append((job, prompt_tokens))

    def add_to(self, made: dict[int, Progress], now_s: float) -> int:
        """Charge such work and cached tokens, and add them to the progress by request. Returns the engine time in
        microseconds."""
        busy_micros = 0
        for job, micros, is_usage in self._timed:
            busy_micros += micros
            if job is not None:
                if is_usage:
                    self._charges.time(job.submit.tenant, micros, now_s)
                before = _progress(made, job)
                made[job.submit.request] = msgspec.structs.replace(before, micros=before.micros + micros)
        for job, tokens in self._cached:
            self._charges.cached(job.submit, tokens, now_s)
            made[job.submit.request] = msgspec.structs.replace(_progress(made, job), cached=tokens)
        self._timed, self._cached = [], []
        return busy_micros

    def step(self, active: dict[int, Job], jobs: int, progress: list[Progress], busy_micros: int, now_s: float) -> Step:
        """Tell it all. `jobs` are how many requests there are in all."""
        self._steps += 1
        finishes, self.finishes = self.finishes, []
        bound = self._bound(active) if self._bound_changed else None
        given = {request: (s, round((now_s - at_s) * 1e6)) for request, (_, s, at_s) in self._taken.items()}
        self._taken, self._bound_changed = {}, False
        swaps, self._swaps = self._swaps, 0
        recomputes, self._recomputes = self._recomputes, 0
        return Step(
            number=self._steps,
            busy_micros=busy_micros,
            unbilled_micros=busy_micros - sum(one.micros for one in progress),
            progress=progress,
            finishes=finishes,
            running=len(active),
            waiting=jobs - len(active),
            swaps=swaps,
            recomputes=recomputes,
            bound=bound,
            given=given or None,
        )

    def _bound(self, active: dict[int, Job]) -> list[tuple[int, int]]:
        """The requests that have a sequence or had one in this step, with its binding."""
        bound = {request: binding for request, (binding, *_) in self._taken.items()}
        bound.update((job.submit.request, job.binding) for job in active.values() if job.binding is not None)
        return list(bound.items())


def _progress(made: dict[int, Progress], job: Job) -> Progress:
    """What a request has made in this step so far."""
    assert job.binding is not None, "it was bound"
    return made.get(job.submit.request) or Progress(job.submit.request, job.binding, 0, -1, 0)
