"""One engine and the requests that run in it: what is sent to it, what comes back, how requests end.

A request is live from `run` until `_finish`, the only way out. It waits in the backlog until the engine has a
place for it. Its end may be decided here first (a stop string, a disconnected client, a cancellation); then the engine
is told, and its Finish completes the decision. After a crash everything is submitted again (see suspects.py).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tenantd.config import Config
from tenantd.domain import Breach, FinishReason
from tenantd.errors import EngineFailure, EngineUnavailable, TenantdError
from tenantd.events import EngineLost, EngineStarted, Events, FirstToken
from tenantd.fleet.announced import binding_broken, started
from tenantd.fleet.backlog import Backlog
from tenantd.fleet.bindings import Bindings, Misbound
from tenantd.fleet.board import UsageBoard
from tenantd.fleet.checkup import Checkup
from tenantd.fleet.faults import detail_of, error_of
from tenantd.fleet.process import Ending
from tenantd.fleet.served import Served
from tenantd.fleet.supervisor import Supervisor, load_command
from tenantd.fleet.suspects import Suspects
from tenantd.fleet.tally import Tally
from tenantd.fleet.throughput import Throughput
from tenantd.live.phases import Phase
from tenantd.live.registry import LiveRegistry
from tenantd.live.streams import MIXED_UP, LiveStream
from tenantd.tenancy.rates import Rates
from tenantd.wire.messages import (
    Cancel,
    Check,
    Checked,
    Checking,
    CheckResult,
    Command,
    DropSampling,
    EndCheck,
    Finish,
    Forget,
    Pause,
    Remember,
    Step,
    TenantPolicy,
)

log = logging.getLogger(__name__)

DETAIL_INTERVAL_S: Final = 60


class Replica:
    """One engine and its requests. Runs the engine through its supervisor, whose client it is.

    `live` owns the requests given to it. It shares nothing with other replicas except `rates`.
    """

    def __init__(
        self,
        config: Config,
        shares: Callable[[], Iterable[TenantPolicy]],
        rates: Rates,
        events: Events,
        *,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        slowest_restart_s: float,
        clock_s: Callable[[], float],
    ) -> None:
        """`shares` returns the tenants' policies for each new engine; tokens are booked in `rates`."""
        self.live = LiveRegistry()
        self.backlog = Backlog()
        self.throughput = Throughput()
        self.board = UsageBoard()
        self.tally = Tally()
        self.served = Served()
        self.checkup = Checkup()
        self.bound: frozenset[int] = frozenset()  # numbers of requests with a slot, as last reported by the engine
        self.order: list[int] = []  # numbers of the first waiting requests, in the engine's order
        self.cached: dict[int, int] = {}  # bytes of cached prompts, by tenant id, as last reported
        self.on_order: Callable[[Step | None], None] = lambda step: None  # called when that is told, or lost
        self.on_short: Callable[[LiveStream], None] = lambda stream: None  # called when it needs to be allowed more
        self.supervisor = Supervisor(
            load_command(config),
            config.engine,
            self,
            command=command,
            environment=environment,
            slowest_restart_s=slowest_restart_s,
        )
        self._shares = shares
        self._rates = rates
        self._events = events
        self._half_life_s = config.scheduler.half_life_s
        self._max_crashes = config.engine.max_crashes
        self._clock_s = clock_s
        self._booked_micros = 0  # of requests that have ended
        self._is_paused = False
        self._suspects = Suspects()
        self._bindings = Bindings()
        self._is_sending_soon = False
        self._logged_s: dict[str, float] = {}  # when a failure of each tenant was last logged

    # ---- for the service ----------------------------------------------------------------------------------------

    def run(self, stream: LiveStream) -> None:
        """Start a request. While there is no engine, it waits for the next."""
        if not self.live:
            self.throughput.forget()
        self.live.add(stream)
        stream.sampling.users += 1
        self.backlog.add(stream)
        self._send_soon()

    def end(self, stream: LiveStream, decision: FinishReason, error: TenantdError | None) -> None:
        """Decide how a live request will end. Only the first decision counts, and none after the end."""
        if stream.phase is Phase.IN_ENGINE and self.supervisor.is_ready:
            stream.decide(decision, error)
            self._let_go(stream)
        elif stream.phase in (Phase.WAITING, Phase.IN_ENGINE):
            self._finish(stream, decision, error)

    def refuse(self, stream: LiveStream, error: TenantdError) -> None:
        """End a request whose row could not be written; its usage is charged to nobody. Safe to call again."""
        before = stream.phase
        if before is Phase.REFUSED:
            return
        stream.refuse(error)
        if before is Phase.FINISHED:
            self._booked_micros -= stream.engine_micros
            self.tally.unbilled_micros += stream.engine_micros
        elif before is Phase.IN_ENGINE and self.supervisor.is_ready:
            self._let_go(stream)
        elif before is not Phase.DECIDED:
            self._finish(stream, FinishReason.FAILED, error)

    def _let_go(self, stream: LiveStream) -> None:
        """Make the engine end a request. Its place is free for the next one, which is sent afterwards."""
        self.supervisor.send(Cancel(stream.number))
        self.backlog.leave(stream)
        self._send_soon()

    def forget(self, tenant: str) -> None:
        """Forget a removed tenant. The engine hears first that its requests have ended."""
        self.board.forget(tenant)
        self.on_room()
        self.supervisor.send(Forget(tenant))

    def pause(self, *, is_paused: bool) -> None:
        """Make the engine stop computing, or resume. A new engine is told too."""
        self._is_paused = is_paused
        self.supervisor.send(Pause(is_paused))

    async def check_isolation(self, *, quick: bool, adapters: Sequence[str]) -> list[CheckResult]:
        """Make the engine check itself; requests wait meanwhile. Cancel this to end it early.

        There must be a ready engine and no other check.
        """
        nonce, answer = self.checkup.begin()
        self.supervisor.send(Check(nonce=nonce, quick=quick, adapters=list(adapters)))
        try:
            return await answer
        finally:
            self.supervisor.send(EndCheck(nonce))
            self.checkup.finish()
            self._send_soon()

    def finish_all(self, reason: FinishReason, error: TenantdError) -> None:
        """End everything now, without waiting for the engine."""
        for stream in self.live:
            self._finish(stream, reason, error)

    def idle_check(self) -> None:
        """Invariants while nothing is live: no counts are left, and all engine time is accounted for."""
        self.live.check_empty()
        self.backlog.check_empty()
        self._suspects.check_empty()
        tally = self.tally
        assert tally.busy_micros == self._booked_micros + tally.unbilled_micros, f"booked {self._booked_micros} {tally}"

    def _finish(self, stream: LiveStream, reason: FinishReason, error: TenantdError | None = None) -> None:
        """The only way out of `live`."""
        self.live.remove(stream)
        self.backlog.leave(stream)
        self._suspects.ended(stream)
        stream.sampling.users -= 1
        if stream.sampling.is_in_engine and not stream.sampling.users:
            self.supervisor.send(DropSampling(stream.sampling.number))
        if stream.phase is Phase.REFUSED:
            self.tally.unbilled_micros += stream.engine_micros
        else:
            self._booked_micros += stream.engine_micros
        self.throughput.ended(self._clock_s())
        self.served.ended(stream)
        stream.finish(reason, error)
        self._send_soon()

    # ---- for the status -----------------------------------------------------------------------------------------

    def usage(self, tenant: str) -> float:
        """A tenant's decayed usage in this engine, by weight."""
        return self.board.usage(tenant, self._clock_s(), self._half_life_s)

    def paused(self) -> dict[str, int]:
        """By tenant, the number of requests with a token but no slot: they gave it up, or lost it in a crash."""
        live = self.live.by_number
        bound = Counter(live[n].tenant for n in self.bound if n in live and live[n].generated)
        paused = {name: running - bound[name] for name, running in self.live.running_tenants().items()}
        return {name: number for name, number in paused.items() if number}

    def states(self) -> dict[str, str]:
        """By request id, the `state` of every live request."""
        return {stream.id: self.state(stream) for stream in self.live.by_number.values()}

    def state(self, stream: LiveStream) -> str:
        """`waiting` (no token yet), `paused` (tokens but no slot) or `running` (tokens and a slot)."""
        has_begun = bool(stream.generated or stream.texts)
        return "running" if has_begun and stream.number in self.bound else "paused" if stream.generated else "waiting"

    # ---- events of the supervisor -------------------------------------------------------------------------------

    @property
    def has_live(self) -> bool:
        return bool(self.live) or self.checkup.is_on

    def on_ready(self) -> list[Command]:
        """Send policies and usage, then every live request in its original order, from its current position."""
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
        self._bindings = Bindings()
        busy: set[str] = set()
        suspects: list[LiveStream] = []
        for stream in self.live:
            stream.sampling.is_in_engine = False
        for stream in self.live:
            if len(stream.generated) >= stream.max_tokens and not stream.texts:
                self._finish(stream, FinishReason.LENGTH)  # its last token arrived, but its Finish was lost
            elif self._suspects.has(stream):
                suspects.append(stream)
            else:
                self.backlog.add(stream)
                busy.add(stream.tenant)
        self._suspects.try_in_turn(suspects)
        return [Pause(self._is_paused), *self._shares(), self._memory(sorted(busy)), *self._next_try()]

    def _send_soon(self) -> None:
        """Later in this loop turn, so that of requests that end together none is sent in place of another."""
        if not self._is_sending_soon:
            self._is_sending_soon = True
            asyncio.get_running_loop().call_soon(self.on_room)

    def on_room(self) -> None:
        """Send what the engine has places for, while there is room, and which tenants have more."""
        self._is_sending_soon = False
        may_send = not self.checkup.is_on
        while may_send and self.supervisor.has_room and (stream := self.backlog.take()) is not None:
            for command in self._start(stream):
                self.supervisor.send(command)
        for news in self.backlog.news():
            self.supervisor.send(news)

    def _start(self, stream: LiveStream) -> list[Command]:
        """The commands that make the engine run a request; they are sent right away."""
        sampling = stream.sampling
        commands: list[Command] = [] if sampling.is_in_engine else [sampling.command()]
        sampling.is_in_engine = True
        return [*commands, stream.sent()]

    def _memory(self, busy: list[str]) -> Remember:
        now_s = self._clock_s()
        return Remember(
            self.board.all(now_s, self._half_life_s),
            self._rates.tokens_counting(round(now_s * 1e6)),
            busy,
            self.board.level(now_s, self._half_life_s),
        )

    def _next_try(self) -> list[Command]:
        """The commands that make the engine try the next suspect, if it is time."""
        return [] if (stream := self._suspects.next()) is None else self._start(stream)

    def on_step(self, step: Step) -> None:
        """The hot path: check whose it all is, book what each request got, then handle the ones that ended."""
        live = self.live.by_number
        try:
            streams = self._bindings.streams(step, live)
        except Misbound as e:
            self.break_off(e.stream, Breach.ENGINE, reported=e.binding)
            return
        self.tally.add(step)
        delivered: dict[str, int] = {}
        for stream, progress in zip(streams, step.progress, strict=True):
            if stream is None:
                self.tally.unbilled_micros += progress.micros  # finished here before the engine knew
                continue
            tokens = (progress.prefilled if stream.counts_prompt else 0) + (progress.token >= 0)
            delivered[stream.tenant] = delivered.get(stream.tenant, 0) + tokens
            if stream.advance(progress):
                self._on_milestone(stream)
        now_micros = round(self._clock_s() * 1e6)
        for tenant, tokens in delivered.items():
            self._rates.book_tokens(tenant, tokens, now_micros)
        self.live.book_energy(step.energy or {})
        for finish in step.finishes:
            if finish.request in live:
                self._on_finish(live[finish.request], finish)
        if step.bound is not None:
            self._on_bound([number for number, _ in step.bound])
        if step.order is not None or step.outlook is not None:
            self.order = self.order if step.order is None else step.order
            self.on_order(step)
        self.cached = self.cached if step.cache is None else step.cache
        if step.usage is not None:
            self.board.update(step.usage, step.level, self._clock_s())
        if self._suspects.probe is not None:
            for command in self._next_try():
                self.supervisor.send(command)

    def on_check(self, message: Checking | Checked) -> None:
        """Nobody is charged for the time of a check."""
        self.tally.busy_micros += message.busy_micros
        self.tally.unbilled_micros += message.busy_micros
        self.checkup.hear(message)

    def _on_bound(self, numbers: list[int]) -> None:
        """Record which requests have slots now."""
        self.bound = frozenset(numbers)
        for number in numbers:
            if (stream := self.live.by_number.get(number)) is not None:
                self._on_started(stream)

    def _on_started(self, stream: LiveStream) -> None:
        """Record that a request has, or had, a slot; it may have ended in the step in which it got one."""
        if not stream.has_started:
            stream.has_started = True
            self._events.announce(started(stream))

    def _on_milestone(self, stream: LiveStream) -> None:
        """Handle a first token, a stop string, or a need to be allowed more."""
        if len(stream.generated) == 1:
            self.live.begin(stream)
            self._on_started(stream)
            after_micros = stream.first_token_micros
            assert after_micros is not None, "it is here"
            self._events.announce(FirstToken(request_id=stream.id, tenant=stream.tenant, after_micros=after_micros))
        if stream.is_stopped:
            self.end(stream, FinishReason.STOP, None)
        elif len(stream.generated) >= stream.ask_at_tokens:
            self.on_short(stream)

    def _on_finish(self, stream: LiveStream, finish: Finish) -> None:
        has_computed = bool(stream.prefilled_tokens or stream.cached_tokens)
        if has_computed or stream.engine_micros:
            self._on_started(stream)
        error = error_of(finish, has_computed=has_computed)
        if detail := detail_of(finish):
            self._log_detail(stream.tenant, detail)
        self._finish(stream, finish.reason, error)

    def break_off(
        self, stream: LiveStream, breach: Breach, *, reported: int | None = None, other: str | None = None
    ) -> None:
        """What came for a request is not its own: end it, and replace the engine. Nothing of the step was booked.

        The other requests are resumed by the next engine, as after a crash.
        """
        log.error("an answer to request %s was not its own (%s); the engine is restarted", stream.id, breach)
        self._events.announce(binding_broken(stream, breach, reported, other))
        self.supervisor.distrust("it mixed up its requests")
        if stream.number in self.live.by_number:
            self._finish(stream, FinishReason.FAILED, EngineFailure(MIXED_UP))

    def _log_detail(self, tenant: str, detail: str) -> None:
        """Log what only administrators may know about a failure, at most once a minute per tenant."""
        now_s = self._clock_s()
        if now_s - self._logged_s.get(tenant, -math.inf) >= DETAIL_INTERVAL_S:
            self._logged_s[tenant] = now_s
            log.warning("a request of tenant %s failed: %s", tenant, detail)

    def on_crash(self, ending: Ending) -> bool:
        """Finish what was about to end, fail requests that took part in too many crashes, and keep the rest."""
        self._events.announce(EngineLost(reason=ending.loss, status=ending.status, live=len(self.live)))
        self.bound, self.order, self.cached = frozenset(), [], {}
        self.on_order(None)
        has_found_cause, was_checking = False, self.checkup.has_begun
        self.checkup.lose(f"the engine ended during this check, and is restarted: {ending.reason}")
        for stream in self.live:
            if stream.phase in (Phase.DECIDED, Phase.REFUSED):
                self._finish(stream, FinishReason.FAILED)
                continue
            if stream.phase is not Phase.IN_ENGINE:
                continue
            stream.lost()
            if was_checking:
                continue  # it did not run
            if (crashes := self._suspects.crashed(stream)) >= self._max_crashes:
                message = f"the engine crashed {crashes} times in a row while running this request: {ending.reason}"
                self._finish(stream, FinishReason.FAILED, EngineUnavailable(message))
                has_found_cause = True
        return has_found_cause

    def on_given_up(self, reason: str) -> None:
        self.finish_all(FinishReason.FAILED, EngineUnavailable(reason))
