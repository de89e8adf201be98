"""The token loop: bind, plan, run, commit. One process, one thread, one screen.

A step that was planned is always committed, so what is charged is what was computed. Between steps the only state is
the scheduler's and the engine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from tenantd.engine.compute import Compute, RequestRejected
from tenantd.engine.protocol import Cancel, Command, Load, Share, Step, Stop, Submit
from tenantd.engine.scheduler import Scheduler

USAGE_INTERVAL_S: Final = 1.0


class Loop:
    """Ties a scheduler to an engine."""

    def __init__(self, scheduler: Scheduler, compute: Compute, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._scheduler = scheduler
        self._compute = compute
        self._clock_s = clock_s
        self._usage_due_s = 0.0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    @property
    def is_idle(self) -> bool:
        return self._scheduler.is_idle

    def step(self) -> Step:
        """One step, for every bound request at most one token. Raises EngineBroken: start the process again."""
        self._clear_released()
        self._bind()
        plan = self._scheduler.plan(self._clock_s())
        for source, target in plan.moves:
            self._compute.move(source, target)
        results = [self._compute.run(chunks) for chunks in plan.passes]
        step = self._scheduler.commit(plan, results, self._clock_s())
        self._clear_released()
        if self.is_idle:
            self._check_idle()
        return self._with_usage(step)

    def apply(self, commands: Iterable[Command]) -> bool:
        """Hand commands to the scheduler; they only queue. False when the process is to stop."""
        for command in commands:
            match command:
                case Submit():
                    self._scheduler.submit(command, self._clock_s())
                case Cancel(request):
                    self._scheduler.cancel(request)
                case Share():
                    self._scheduler.set_share(command)
                case Stop():
                    return False
                case Load():
                    raise AssertionError("a model is loaded once")
        return True

    def _bind(self) -> None:
        """Bind requests to free sequences until none waits or none is free; a rejected one makes room again."""
        while bound := self._scheduler.bind(self._clock_s()):
            for job in bound:
                submit = job.submit
                try:
                    self._compute.bind(job.sequence, submit.sampling, submit.prompt, submit.generated)
                except RequestRejected as e:
                    self._scheduler.reject(submit.request, str(e))
            self._clear_released()

    def _clear_released(self) -> None:
        for sequence in self._scheduler.take_released():
            self._compute.clear(sequence)

    def _check_idle(self) -> None:
        """Conservation, whenever there is nothing to do: every slot free, nothing left in the KV cache."""
        self._scheduler.check()
        assert self._compute.is_empty(), "an idle engine holds nothing"

    def _with_usage(self, step: Step) -> Step:
        now_s = self._clock_s()
        if now_s < self._usage_due_s:
            return step
        self._usage_due_s = now_s + USAGE_INTERVAL_S
        return msgspec.structs.replace(step, usage=self._scheduler.usage(now_s))
