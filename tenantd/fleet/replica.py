"""Live requests and the engine that runs them: what is sent to it, what comes back, how requests end.

A request is live from `run` until `_finish`, which is the one way out. It waits in the backlog until the engine has a
place for it. How it ends may be decided here first (a stop string, a client that left, a cancellation); then the engine
is told, and its Finish carries the decision out.

After a crash everything is submitted again. When that crashes too, one request is likely the cause, and to submit all
again would fail all: from then on the suspects are submitted one by one, each when the one before has got a token.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tenantd.config import Config
from tenantd.domain import FinishReason
from tenantd.errors import EngineFailure, EngineUnavailable, InvalidRequest, TenantdError
from tenantd.events import EngineLost, EngineStarted, Events, FirstToken, Started
from tenantd.fleet.backlog import Backlog
from tenantd.fleet.board import UsageBoard
from tenantd.fleet.process import Ending
from tenantd.fleet.supervisor import Supervisor, load_command
from tenantd.fleet.throughput import Throughput
from tenantd.live.registry import LiveRegistry
from tenantd.live.streams import LiveStream
from tenantd.tenancy.rates import Rates
from tenantd.wire.messages import Backlog as BacklogNews
from tenantd.wire.messages import Cancel, Command, DropSampling, Finish, Forget, Pause, Remember, Step, TenantPolicy

log = logging.getLogger(__name__)

DETAIL_INTERVAL_S: Final = 60


class Replica:
    """Owner of the live requests, and of the engine through its supervisor, whose client it is."""

    def __init__(
        self,
        config: Config,
        shares: Callable[[], Iterable[TenantPolicy]],
        events: Events,
        *,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        slowest_restart_s: float,
        clock_s: Callable[[], float],
    ) -> None:
        """`shares` says what each engine that starts is told about the tenants."""
        self.live = LiveRegistry()
        self.backlog = Backlog()
        self.throughput = Throughput()
        self.board = UsageBoard()
        self.rates = Rates()
        self.busy_micros = 0  # engine time in all
        self.unbilled_micros = 0  # the part of it that no request is charged for: work a crash lost, mostly
        self.supervisor = Supervisor(
            load_command(config),
            config.engine,
            self,
            command=command,
            environment=environment,
            slowest_restart_s=slowest_restart_s,
        )
        self.swaps = self.recomputes = 0  # requests that gave way, with their state kept and without, over all engines
        self._shares = shares
        self._events = events
        self._half_life_s = config.scheduler.half_life_s
        self._max_crashes = config.engine.max_crashes
        self._clock_s = clock_s
        self._booked_micros = 0  # of requests that have ended
        self._is_paused = False
        self._probe: LiveStream | None = None  # the suspect being tried
        self._held: deque[LiveStream] = deque()  # suspects not submitted yet
        self._is_sending_soon = False
        self._logged_s: dict[str, float] = {}  # when the log had a failure of each tenant

    # ---- for the service ----------------------------------------------------------------------------------------

    def run(self, stream: LiveStream) -> None:
        """Start a request; between two engines it waits for the next."""
        if not self.live:
            self.throughput.forget()
        self.live.add(stream)
        stream.sampling.users += 1
        self.backlog.add(stream)
        self._send_soon()

    def end(self, stream: LiveStream, decision: FinishReason, error: TenantdError | None) -> None:
        """Decide how a live request is to end. The first decision counts; none does once it has ended."""
        if stream.decision is not None or stream.number not in self.live.by_number:
            return
        stream.decision = decision
        stream.error = stream.error or error
        if self.supervisor.is_ready and stream.is_in_engine:
            self.supervisor.send(Cancel(stream.number))
            self.backlog.leave(stream)
        else:
            self._finish(stream, decision)
        self._send_soon()

    def forget(self, tenant: str) -> None:
        """It is gone for good; so are its requests, and the engine is told that first."""
        self.rates.forget(tenant)
        self.board.forget(tenant)
        self.on_room()
        self.supervisor.send(Forget(tenant))

    def pause(self, *, is_paused: bool) -> None:
        """Let the engine compute nothing, or go on. A fresh engine is told too."""
        self._is_paused = is_paused
        self.supervisor.send(Pause(is_paused))

    def refused(self, stream: LiveStream) -> None:
        """It will not be billed: what it took so far was nobody's. Call once, before or after its end."""
        if stream.number not in self.live.by_number:
            self._booked_micros -= stream.engine_micros
            self.unbilled_micros += stream.engine_micros

    def finish_all(self, reason: FinishReason, error: TenantdError) -> None:
        """End everything now, without waiting for the engine."""
        for stream in self.live:
            self._finish(stream, reason, error)

    def idle_check(self) -> None:
        """Conservation while nothing is live: no count is left over, and all engine time is somebody's."""
        self.live.check_empty()
        self.backlog.check_empty()
        assert self.busy_micros == self._booked_micros + self.unbilled_micros, (
            f"busy {self.busy_micros} = booked {self._booked_micros} + unbilled {self.unbilled_micros}"
        )

    def _finish(self, stream: LiveStream, reason: FinishReason, error: TenantdError | None = None) -> None:
        """The one way out of `live`. A decision made before wins over how the engine, or its end, ended it."""
        self.live.remove(stream)
        self.backlog.leave(stream)
        stream.sampling.users -= 1
        if stream.sampling.is_in_engine and not stream.sampling.users:
            self.supervisor.send(DropSampling(stream.sampling.number))
        if stream.is_refused:
            self.unbilled_micros += stream.engine_micros
        else:
            self._booked_micros += stream.engine_micros
        self.throughput.ended(self._clock_s())
        if stream.decision is None:
            stream.finish(reason, error)
        else:
            stream.finish(stream.decision, None)

    # ---- what the supervisor says -------------------------------------------------------------------------------

    @property
    def has_live(self) -> bool:
        return bool(self.live)

    def on_ready(self) -> list[Command]:
        """Shares and usage first; then every live request goes in its original order, from where it stands."""
        info = self.supervisor.info
        assert info is not None, "it is ready"
        self._events.announce(
            EngineStarted(
                pid=self.supervisor.pid,
                slots=info.slots,
                context_tokens=info.context_tokens,
                restarts=self.supervisor.restarts,
            )
        )
        self.backlog = Backlog(info.slots)
        busy: set[str] = set()
        suspects: list[LiveStream] = []
        for stream in self.live:
            stream.sampling.is_in_engine = False
        for stream in self.live:
            if len(stream.generated) >= stream.max_tokens:
                self._finish(stream, FinishReason.LENGTH)  # its last token came and its Finish was lost
            elif stream.is_suspect:
                suspects.append(stream)
            else:
                self.backlog.add(stream)
                busy.add(stream.tenant)
        self._held = deque(sorted(suspects, key=lambda stream: stream.crashes))
        return [Pause(self._is_paused), *self._shares(), self._memory(sorted(busy)), *self._next_probe()]

    def _send_soon(self) -> None:
        """Once what happens now is over: of requests that end together, none goes to the engine in place of another."""
        if not self._is_sending_soon:
            self._is_sending_soon = True
            asyncio.get_running_loop().call_soon(self.on_room)

    def on_room(self) -> None:
        """Send what the engine has places for, as long as the way is free; and who has more than that."""
        self._is_sending_soon = False
        while self.supervisor.has_room and (stream := self.backlog.take()) is not None:
            for command in self._start(stream):
                self.supervisor.send(command)
        for tenant, exists in self.backlog.news():
            self.supervisor.send(BacklogNews(tenant, exists))

    def _start(self, stream: LiveStream) -> list[Command]:
        """What makes the engine run a request. It is told right after."""
        stream.is_in_engine = True
        sampling = stream.sampling
        if sampling.is_in_engine:
            return [stream.submit_command()]
        sampling.is_in_engine = True
        return [sampling.command(), stream.submit_command()]

    def _memory(self, busy: list[str]) -> Remember:
        now_s = self._clock_s()
        return Remember(
            self.board.all(now_s, self._half_life_s),
            self.rates.tokens_counting(round(now_s * 1e6)),
            busy,
            self.board.level(now_s, self._half_life_s),
        )

    def _next_probe(self) -> list[Command]:
        """Take the next suspect that is still live; the command to try it."""
        self._probe = None
        while self._held:
            stream = self._held.popleft()
            if stream.number in self.live.by_number:
                self._probe = stream
                return self._start(stream)
        return []

    def on_step(self, step: Step) -> None:
        """The hot path: book what each request got, then what has ended."""
        live = self.live.by_number
        self.busy_micros += step.busy_micros
        self.unbilled_micros += step.unbilled_micros
        self.swaps += step.swaps
        self.recomputes += step.recomputes
        delivered: dict[str, int] = {}
        for progress in step.progress:
            stream = live.get(progress.request)
            if stream is None:
                self.unbilled_micros += progress.micros  # it was finished here before the engine knew
                continue
            tokens = (progress.prefilled if stream.counts_prompt else 0) + (progress.token >= 0)
            delivered[stream.tenant] = delivered.get(stream.tenant, 0) + tokens
            if stream.advance(progress):
                self._on_milestone(stream)
        now_micros = round(self._clock_s() * 1e6)
        for tenant, tokens in delivered.items():
            self.rates.book_tokens(tenant, tokens, now_micros)
        for finish in step.finishes:
            if finish.request in live:
                self._on_finish(live[finish.request], finish)
        if step.bound is not None:
            self._on_bound(step.bound)
        if step.usage is not None:
            self.board.update(step.usage, step.level, self._clock_s())
        if (probe := self._probe) is not None and not (probe.is_suspect and probe.number in live):
            for command in self._next_probe():
                self.supervisor.send(command)
        if step.finishes:
            self._send_soon()

    def _on_bound(self, numbers: list[int]) -> None:
        """These have slots now."""
        self.live.bound = frozenset(numbers)
        for number in numbers:
            if (stream := self.live.by_number.get(number)) is not None:
                self._on_started(stream)

    def _on_started(self, stream: LiveStream) -> None:
        """It has, or had, a slot. A request may have ended in the step in which it got one."""
        if not stream.has_started:
            stream.has_started = True
            waited_micros = round(stream.age_s * 1e6)
            self._events.announce(Started(request_id=stream.id, tenant=stream.tenant, waited_micros=waited_micros))

    def _on_milestone(self, stream: LiveStream) -> None:
        """The first token came, or the stop string, or both."""
        if len(stream.generated) == 1:
            self.live.begin(stream)
            self._on_started(stream)
            after_micros = stream.first_token_micros
            assert after_micros is not None, "it is here"
            self._events.announce(FirstToken(request_id=stream.id, tenant=stream.tenant, after_micros=after_micros))
        if stream.is_stopped:
            self.end(stream, FinishReason.STOP, None)

    def _on_finish(self, stream: LiveStream, finish: Finish) -> None:
        error: TenantdError | None = None
        if stream.prefilled_tokens or stream.engine_micros:
            self._on_started(stream)
        if finish.reason is FinishReason.FAILED and finish.param:
            error = InvalidRequest(finish.message, param=finish.param)
        elif finish.reason is FinishReason.FAILED:
            # What the engine refuses before it has computed anything is the request's own fault: its adapter, say.
            kind = EngineFailure if stream.prefilled_tokens else InvalidRequest
            error = kind(finish.message or "the engine failed to run the request")
        if finish.detail:
            self._log_detail(stream.tenant, finish.detail)
        self._finish(stream, finish.reason, error)

    def _log_detail(self, tenant: str, detail: str) -> None:
        """What only administrators may know of a failure; once a minute for each tenant, however often it asks."""
        now_s = self._clock_s()
        if now_s - self._logged_s.get(tenant, -math.inf) >= DETAIL_INTERVAL_S:
            self._logged_s[tenant] = now_s
            log.warning("a request of tenant %s failed: %s", tenant, detail)

    def on_crash(self, ending: Ending) -> bool:
        """What was to end has ended; who was in too many crashes is taken for their cause; the rest goes on."""
        self._events.announce(EngineLost(reason=ending.loss, status=ending.status, live=len(self.live)))
        self.live.bound = frozenset()
        has_found_cause = False
        for stream in self.live:
            crashes = stream.count_crash()
            if stream.decision is not None:
                self._finish(stream, stream.decision)
            elif crashes >= self._max_crashes:
                message = f"the engine crashed {crashes} times in a row while running this request: {ending.reason}"
                self._finish(stream, FinishReason.FAILED, EngineUnavailable(message))
                has_found_cause = True
        return has_found_cause

    def on_given_up(self, reason: str) -> None:
        self.finish_all(FinishReason.FAILED, EngineUnavailable(reason))
