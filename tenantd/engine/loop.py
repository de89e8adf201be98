"""The token loop: make room, bind, plan, run, commit. One process, and one thread that decides and computes.

A planned step is always committed, so tenants are charged for exactly what was computed. Between steps, only the
scheduler and the engine hold state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from tenantd.domain import Sampling
from tenantd.engine.between import Upkeep
from tenantd.engine.compute import Chunk, Compute, EngineBroken, PassResult, RequestRejected, version_text
from tenantd.engine.forecast import Forecast
from tenantd.engine.interlude import Interlude
from tenantd.engine.jobs import Job
from tenantd.engine.metering import Metering
from tenantd.engine.passes import Plan
from tenantd.engine.reuse import Reuse
from tenantd.engine.scheduler import Scheduler
from tenantd.wire.messages import (
    Allow,
    Backlog,
    Cancel,
    Check,
    Checked,
    Command,
    DropSampling,
    EndCheck,
    Event,
    Forget,
    Load,
    Pause,
    Remember,
    SetSampling,
    Step,
    Stop,
    Submit,
    TenantPolicy,
)

NEWS_INTERVAL_S: Final = 1.0
HEARTBEAT_S: Final = 1.0
LEAST_BATCH_TOKENS: Final = 32
"""What every engine can compute in one pass."""
MOST_BINDING_MICROS: Final = 20_000
"""A step starts no further binding after this; a single binding (grammar, adapter, state) may take longer."""


class Loop:
    """Ties a scheduler to an engine."""

    def __init__(
        self,
        scheduler: Scheduler,
        compute: Compute,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        batch_tokens: int = LEAST_BATCH_TOKENS,
        checkpoint_tokens: int = 512,
        before_work: Callable[[], None] = lambda: None,
        metering: Metering | None = None,
    ) -> None:
        """`batch_tokens` is the most that a pass may have; `checkpoint_tokens` as in `Load`. `before_work` is called
        when a pass, or other work of the compute that may take long, begins. `metering` tells requests' energy."""
        self._scheduler = scheduler
        self._compute = compute
        self._before_work = compute.on_pass = before_work
        self._clock_s = clock_s
        self._metering = metering
        self._upkeep = Upkeep(scheduler, clock_s)
        self._reuse = Reuse(scheduler, compute, self._upkeep, checkpoint_tokens)
        self._interlude = Interlude(compute, batch_tokens)
        self._forecast = Forecast(scheduler, clock_s)
        self._samplings: dict[int, Sampling] = {}  # by number; future requests refer to them
        self._news_due_s = 0.0
        self._adapters: dict[int, str] = {}  # versions of those that were bound since the last step
        self._is_stuck = False  # the last step did nothing, and commands were not looked for since
        self._is_paused = False  # compute nothing, because the daemon cannot bill
        self._garbled: list[Job] = []  # for which the last pass returned NaN or infinity, to be computed again

    def patience_s(self) -> float | None:
        """How long to wait for commands before the next step: 0 if there is work, None (no timeout) if idle.

        If all requests are held back by their tenants' limits, an empty step is made now and then, as a heartbeat.
        """
        now_s = self._clock_s()
        if self.is_checking or self._reuse.cache.is_wiping:
            return 0.0
        if self._scheduler.has_work(now_s) and not self._is_stuck:
            return 0.0
        if self._scheduler.is_idle:
            return None
        wake_s = None if self._is_paused else self._scheduler.wake_s(now_s)
        return HEARTBEAT_S if wake_s is None else min(HEARTBEAT_S, max(0.0, wake_s - now_s))

    @property
    def is_checking(self) -> bool:
        """Whether a part of a check comes next."""
        return self._interlude.is_asked and not self._scheduler.has_bound

    def turn(self) -> Iterator[Event]:
        """A step, or a part of a check, and what it did; nothing if there is nothing to do.

        While a check runs, steps compute nothing, but tell which requests were cancelled. Raises EngineBroken.
        """
        if self.patience_s() is None:
            return
        yield self.step()
        if self.is_checking:
            self._reuse.cache.vacate_all()
            yield (event := self._interlude.go_on())
            if isinstance(event, Checked):
                self._interlude.forget()

    def step(self) -> Step:
        """Make one step: at most one token for each bound request. Raises EngineBroken if the process must restart."""
        if self._metering is not None:
            self._metering.begin()
        self._clear_released()
        self._begin_garbled_again()
        if self._interlude.is_overdue(self._clock_s()):
            self._give_way()
        if self._reuse.cache.is_wiping:
            self._before_work()
            with self._upkeep.of(None):
                self._reuse.cache.wipe()
        plan = Plan([], []) if self._is_paused else self._plan()
        result = self._run(plan)
        step = self._scheduler.commit(plan, result, self._clock_s(), self._clear_released)
        if self._scheduler.is_idle and not self._interlude.has_begun and not self._reuse.cache.is_wiping:
            self._check_idle()
        self._is_stuck = not (step.progress or step.finishes)
        if self._metering is not None:
            step = self._metering.end(step, is_resting=self.is_checking or self.patience_s() != 0)
        return self._with_news(step)

    def _run(self, plan: Plan) -> PassResult | None:
        """Make the moves and the pass of a step; None if it has none."""
        if not plan.chunks:
            return None
        began_s = self._clock_s()
        for source, target in plan.moves:
            self._compute.move(source, target)
        moving_micros = self._micros_since(began_s) if plan.moves else 0
        self._scheduler.check_plan(plan)
        result = self._compute.run(plan.chunks)
        self._doubt(plan.chunks, result)
        return dataclasses.replace(result, moving_micros=moving_micros) if moving_micros else result

    def _doubt(self, chunks: list[Chunk], result: PassResult) -> None:
        """Do not believe NaN or infinity the first time that a request gets them. They may be of another's cells, which
        attention weighs by 0: of one that was not computed far enough, or not exactly enough, to have shown them."""
        for chunk in chunks:
            sampled = result.sampled.get(chunk.sequence)
            if sampled is None or not sampled.is_garbled or chunk.texts:
                continue
            if not (job := self._scheduler.active[chunk.sequence]).was_garbled:
                del result.sampled[chunk.sequence]
                job.was_garbled = True
                self._garbled.append(job)

    def _begin_garbled_again(self) -> None:
        """Take them off their sequences, with which all free cells are overwritten."""
        garbled, self._garbled = self._garbled, []
        for job in garbled:
            if job.sequence >= 0:  # else it was cancelled
                self._reuse.cache.distrust(job)
                with self._upkeep.of(job):
                    self._compute.clear(job.sequence)
                self._scheduler.swapped_out(job, None)
                self._scheduler.lost_state(job)

    def apply(self, commands: Iterable[Command]) -> bool:
        """Pass commands to the scheduler, which only queues them. False if the process must stop."""
        self._is_stuck = False
        for command in commands:
            match command:
                case SetSampling(number, sampling):
                    self._samplings[number] = sampling
                case DropSampling(number):
                    del self._samplings[number]
                case Submit():
                    sampling = msgspec.structs.replace(self._samplings[command.sampling], seed=command.seed)
                    self._scheduler.submit(command, sampling, self._clock_s())
                    self._forecast.came(command)
                case Allow(request, tokens):
                    self._scheduler.allow(request, tokens)
                case Cancel(request):
                    self._scheduler.cancel(request)
                case Backlog():
                    self._scheduler.set_backlog(command, self._clock_s())
                case TenantPolicy():
                    self._scheduler.set_policy(command)
                    self._reuse.cache.set_policy(command)
                case Forget(tenant):
                    self._scheduler.roster.forget(tenant)
                    self._reuse.cache.forget(tenant)
                    self._forecast.forget(tenant)
                case Remember():
                    self._scheduler.roster.remember(command, self._clock_s())
                case Pause(is_paused):
                    self._is_paused = is_paused
                case Check():
                    self._interlude.ask(command, self._clock_s())
                case EndCheck(nonce):
                    self._interlude.end(nonce)
                case Stop():
                    return False
                case Load():
                    raise AssertionError("a model is loaded once")
        return True

    def _plan(self) -> Plan:
        if not self._interlude.is_asked:
            self._make_room()
            self._bind()
        self._reuse.begin_followers(self._clock_s())
        self._clear_released()  # those that were rejected, before a move can take their places
        self._reuse.before_pass()
        return self._scheduler.plan(self._clock_s())

    def _make_room(self) -> None:
        """Swap out requests to free slots for needier tenants that wait."""
        while (victim := self._scheduler.next_victim(self._clock_s())) is not None:
            with self._upkeep.of(victim[0]):
                self._swap_out(*victim)

    def _give_way(self) -> None:
        """Swap out every request, the newest first, so that they come back in their order. That is for nobody."""
        with self._upkeep.of(None):
            while (victim := self._scheduler.newest_bound()) is not None:
                self._swap_out(*victim)

    def _swap_out(self, job: Job, room_bytes: int) -> None:
        self._before_work()
        if job.leader is None:
            began_s, tokens = self._clock_s(), job.computed
            swapped = self._compute.swap_out(job.sequence, room_bytes)
            if swapped.size_bytes:
                self._scheduler.keeping.saved(tokens, self._micros_since(began_s))
            self._scheduler.swapped_out(job, swapped)
        else:
            self._reuse.unfollow(job)  # it begins anew, perhaps with what the other has computed by then
            self._scheduler.swapped_out(job, None)

    def _bind(self) -> None:
        """Bind requests to free sequences until none waits or none is free; a rejected request frees its sequence.

        Slow bindings are spread over several steps, so that decoding requests are not held up. States are restored and
        moved out meanwhile, which the time of a binding does not contain.
        """
        micros, began_s = 0.0, self._clock_s()
        while micros < MOST_BINDING_MICROS and (job := self._scheduler.bind(self._clock_s())) is not None:
            micros = max(micros + self._bind_one(job), (self._clock_s() - began_s) * 1e6)
            self._clear_released()

    def _bind_one(self, job: Job) -> int:
        """Bind one request. Returns the engine time in microseconds."""
        self._before_work()
        if (state := self._scheduler.take_state(job)) is not None:
            with self._upkeep.of(job):
                self._reuse.cache.vacate(job.sequence)
                began_s, is_kept = self._clock_s(), state.size_bytes > 0
                if not self._compute.swap_in(job.sequence, state, job.submit.request):
                    self._scheduler.lost_state(job)
                elif is_kept:
                    self._scheduler.keeping.restored(job.computed, self._micros_since(began_s))
            return 0
        micros = self._reuse.begin(job, self._clock_s())
        if adapter := job.submit.adapter:
            with contextlib.suppress(RequestRejected):  # it was refused, or the file is gone since
                self._adapters[job.submit.request] = version_text(self._compute.adapter_version(adapter))
        return micros

    def _micros_since(self, began_s: float) -> int:
        return round((self._clock_s() - began_s) * 1e6)

    def _clear_released(self) -> None:
        for sequence, job in self._scheduler.take_released():
            with self._upkeep.of(job):
                self._reuse.leave(sequence, job)
            self._forecast.ended(job)
        for job, swapped in self._scheduler.take_discarded():
            with self._upkeep.of(job):
                swapped.free()

    def _check_idle(self) -> None:
        """Invariant of an idle engine: every slot is free, and the KV cache holds nothing but prefixes."""
        self._scheduler.check()
        with self._upkeep.of(None):
            is_clean = self._reuse.check_idle()
        if not is_clean:
            raise EngineBroken("the engine is idle but still holds tokens")

    def _with_news(self, step: Step) -> Step:
        """Adds usage and what is held at intervals, and when idle: an idle engine sends no further steps. And what is
        foreseen, once it is."""
        order, outlook = self._forecast.go_on()
        if order is not None or outlook is not None:
            step = msgspec.structs.replace(step, order=order, outlook=outlook)
        if self._adapters:
            step = msgspec.structs.replace(step, adapters=self._adapters)
            self._adapters = {}
        now_s = self._clock_s()
        is_last = self._scheduler.is_idle and not self._reuse.cache.is_wiping
        if now_s < self._news_due_s and not is_last:
            return step
        self._news_due_s = now_s + NEWS_INTERVAL_S
        return msgspec.structs.replace(
            step,
            usage=self._scheduler.usage(now_s),
            level=self._scheduler.roster.level(now_s),
            held=self._scheduler.held(now_s),
            cache=self._reuse.cache.used(),
        )
