"""The service: checks a request, runs it in the engine, and settles it in the ledger.

Everything here happens in one event loop. `Replica` has the requests the engine owes an answer for, `RequestRows` the
rows that are not settled yet; a request is in both from its admission.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from tenantd.clock import now_micros
from tenantd.config import Config
from tenantd.domain import NOBODY, Actor, FinishReason, OnLimit, Tenant, TenantState
from tenantd.errors import (
    Draining,
    EngineUnavailable,
    InvalidRequest,
    LedgerUnavailable,
    RequestCancelled,
    TenantdError,
    TenantSuspended,
)
from tenantd.events import Events
from tenantd.fleet.link import MAX_COMMAND_BYTES, bytes_at_most
from tenantd.fleet.replica import Replica
from tenantd.fleet.supervisor import ENGINE_COMMAND, SLOWEST_RESTART_S, STOP_TIMEOUT_S, EngineState, Supervisor
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.reports import Booked, RecentUsage
from tenantd.live.generation import Generation, SharedSampling, counted_prompt_tokens
from tenantd.live.streams import LiveStream
from tenantd.request_ids import new_request_id
from tenantd.serving.admission import as_it_is, check_allowed, check_prompt, full_queue, gone, may_wait, output_tokens
from tenantd.serving.carryover import decayed_usage, newcomers_level, recall_minute
from tenantd.serving.gate import Deadline, Gate
from tenantd.serving.overview import engine_status, ledger_status, tenants_status
from tenantd.serving.policies import shares
from tenantd.serving.positions import Positions
from tenantd.serving.rows import RequestRows, admission
from tenantd.serving.standstill import Standstill
from tenantd.serving.stopping import CANCEL_GRACE_S, SETTLE_GRACE_S, UNHURRIED, Stage, StopClock
from tenantd.tenancy.directory import Directory
from tenantd.tenancy.rates import RateState
from tenantd.text.chat import ChatFormatter
from tenantd.text.detokenize import TextStream
from tenantd.text.grammar import GrammarCompiler
from tenantd.text.pool import TextPool
from tenantd.text.vocabulary import Vocabulary
from tenantd.wire.messages import Command, EngineInfo, TenantPolicy

log = logging.getLogger(__name__)

LOADING_RETRY_S: Final = 2
MOST_QUEUED_SHOWN: Final = 100


class Service:
    """Owner of the live requests, and of the engine through its supervisor. Not of the ledger: main closes it."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        directory: Directory,
        vocabulary: Vocabulary,
        chat: ChatFormatter,
        *,
        events: Events | None = None,
        command: Sequence[str] = ENGINE_COMMAND,
        environment: Mapping[str, str] | None = None,
        now_micros: Callable[[], int] = now_micros,
        clock_s: Callable[[], float] = time.monotonic,
        slowest_restart_s: float = SLOWEST_RESTART_S,
    ) -> None:
        """`command` and `environment` are the engine process's; `config` may be replaced; `events` hears of it all."""
        self.config, self.events = config, events or Events()
        self.ledger = ledger
        self.directory = directory
        self.vocabulary = vocabulary
        self.chat = chat
        self.pool = TextPool()
        self.grammars = GrammarCompiler()
        self.draining = False
        self.started_micros = now_micros()
        self._replica = Replica(
            config,
            self._shares,
            self.events,
            command=command,
            environment=environment,
            slowest_restart_s=slowest_restart_s,
            clock_s=clock_s,
        )
        self._live = self._replica.live
        self.live_states = self._live.states
        self._gate = Gate(self._replica.rates, clock_s)
        self._positions = Positions(self._replica, config.scheduler, lambda: self.directory.tenants, clock_s)
        self._now_micros = now_micros
        self._clock_s = clock_s
        self._rows = RequestRows(ledger, self.events, lambda: self.config.ledger.settle_timeout_s)
        self._standstill = Standstill(ledger, self._replica, self._rows, lambda: self.config.ledger.settle_timeout_s)
        self._number = 0
        self._ticking: asyncio.Task[None] | None = None

    @property
    def supervisor(self) -> Supervisor:
        """Of the engine process."""
        return self._replica.supervisor

    # ---- the life of the service --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the tenants and start loading the model; `supervisor.wait_ready()` returns when that is done.

        Raises LedgerUnavailable.
        """
        await self.directory.reload(self.ledger)
        self.supervisor.start()
        self._ticking = asyncio.create_task(self._standstill.run())

    def remember(self, recent: Iterable[RecentUsage], booked: Iterable[Booked]) -> None:
        """Take over earlier usage. Call it before `start`. `booked` covers the last minute, oldest first."""
        now_s = self._clock_s()
        usage = decayed_usage(recent, self.directory.tenants, self.config.scheduler)
        self._replica.board.update(usage, newcomers_level(usage), now_s)
        recall_minute(booked, self.directory.tenants, self._replica.rates, round(now_s * 1e6))

    async def drain(self, timeout_s: float, clock: StopClock = UNHURRIED) -> None:
        """Refuse new requests, let live ones finish for `timeout_s`, cancel the rest, and settle everything."""
        self.draining = True
        self._gate.wake()
        timeout_s = clock.most(timeout_s, Stage.DRAIN)
        if not await self._live.wait_until_empty(timeout_s):
            log.warning("cancelling %d requests that did not finish within %g s", len(self._live), timeout_s)
            for stream in self._live:
                self._replica.end(stream, FinishReason.CANCELLED, _shutting_down())
            await self._live.wait_until_empty(clock.most(CANCEL_GRACE_S, Stage.SETTLE))
        self._replica.finish_all(FinishReason.CANCELLED, _shutting_down())
        await self._rows.closed(clock.most(self.config.ledger.settle_timeout_s, Stage.SETTLE))

    async def stop(self, clock: StopClock = UNHURRIED) -> None:
        """Stop the engine and end all live requests. Safe to call twice, and without `drain`."""
        self.draining = True
        self.ledger.end_reports()
        self._gate.wake()
        self._replica.finish_all(FinishReason.CANCELLED, _shutting_down())
        await self.grammars.close()
        await self.supervisor.stop(clock.most(STOP_TIMEOUT_S, Stage.ENGINE))
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
            self._ticking = None
        await asyncio.to_thread(self.pool.close)
        await self._rows.close(clock.most(SETTLE_GRACE_S, Stage.ENGINE))

    async def tenants_changed(self) -> None:
        """Read the tenants again, tell the engine, end what may not run. Raises LedgerUnavailable: nothing changed."""
        before = self.directory.tenants
        await self.directory.reload(self.ledger)
        self._replica.rates.keep(self.directory.tenants.keys())
        self._end_what_may_not_run()
        for name in gone(before, self.directory.tenants):
            self._replica.forget(name)
        self._limits_changed()

    def reconfigure(self, config: Config) -> None:
        """Use this configuration from now on. Default limits take effect at once, in the engine too."""
        self.config = config
        self.directory.use_defaults(config.limits.as_limits())
        self._limits_changed()

    def _limits_changed(self) -> None:
        for share in self._shares():
            self.supervisor.send(share)
        self._gate.wake()

    def key_revoked(self, key_id: str) -> None:
        """End the requests of a key whose revocation is committed, and admit no new ones."""
        self.directory.revoke(key_id)
        self._gate.wake()
        self._end_what_may_not_run()

    def _end_what_may_not_run(self) -> None:
        """End requests of removed tenants and revoked keys."""
        for stream in self._live:
            try:
                as_it_is(self.directory, stream.tenant, stream.tenant_id, stream.actor.key_id)
            except TenantdError as e:
                self._replica.end(stream, FinishReason.CANCELLED, e)

    # ---- requests -----------------------------------------------------------------------------------------------

    async def submit(self, tenant: Tenant, generation: Generation) -> LiveStream:
        """`submit_all` of one."""
        [stream] = await self.submit_all(tenant, [generation])
        return stream

    async def submit_all(
        self, tenant: Tenant, generations: Sequence[Generation], timeout_s: float | None = None, actor: Actor = NOBODY
    ) -> list[LiveStream]:
        """Start all generations of one client's request, or none, once the tenant's limits per minute admit it.

        They count it as one request. Rows are written while the engine already works; `started()` waits for both.
        What is not complete `timeout_s` from now ends with RequestTimeout.
        Raises what is wrong with the request or the moment: Draining, TenantSuspended, EngineUnavailable,
        LedgerUnavailable, InvalidRequest and its kinds, Forbidden, QueueFull, RequestsPerMinuteExceeded,
        TokensPerMinuteExceeded, RequestTimeout, KeyRevoked for a key that is live no more.
        """
        deadline = None if timeout_s is None else Deadline(timeout_s, self._clock_s() + timeout_s)
        tenant = as_it_is(self.directory, tenant.name, tenant.id, actor.key_id)  # it may have changed meanwhile
        most_tokens = self._check(tenant, generations)
        prompt_tokens = counted_prompt_tokens(generations)
        refusal = self._gate.refusal(tenant, prompt_tokens)
        if refusal is not None and tenant.limits.on_limit is OnLimit.REJECT:
            raise refusal
        self._check_queue(tenant, len(generations), refusal)
        if refusal is not None:
            look_again = functools.partial(self._look_again, tenant, actor, generations)
            tenant = await self._gate.wait(tenant, prompt_tokens, len(generations), deadline, look_again)
            most_tokens = self._check(tenant, generations)
        streams = self._new_streams(tenant, generations, most_tokens, actor)
        self._gate.book(tenant)
        positions = self._positions.next_positions(tenant, [stream.prompt_tokens for stream in streams])
        for stream, position, generation in zip(streams, positions, generations, strict=True):
            stream.queue_position = position
            self._replica.run(stream)
            row = admission(stream, generation.kind, self.config.model_name, unbilled=tenant.unbilled)
            self._rows.open(stream, generation, row, self._on_refused)
            if deadline is not None:
                self._end_at(deadline, stream)
        return streams

    def cancel(self, request_id: str) -> bool:
        """Cancel a live request for an administrator; generated tokens are billed. False if there is no such
        request."""
        if stream := self._live.find(request_id):
            error = RequestCancelled("an administrator cancelled the request")
            self._replica.end(stream, FinishReason.CANCELLED, error)
        return stream is not None

    def queue(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """The first requests without a token, of all tenants or of one, in the order in which they should get one."""
        return self._positions.waiting(tenant, MOST_QUEUED_SHOWN)

    def rates(self, tenant: Tenant) -> dict[str, RateState]:
        """What is left of the tenant's limits per minute, for those that are set."""
        return self._gate.states(tenant)

    def _check(self, tenant: Tenant, generations: Sequence[Generation]) -> list[int]:
        """The maximum tokens of each generation. Makes all checks except those of limits per minute and of the
        queue."""
        info = self._check_open(tenant)
        for generation in generations:
            check_prompt(generation.prompt)
        check_allowed(tenant, counted_prompt_tokens(generations))
        return [
            output_tokens(
                tenant,
                len(generation.prompt),
                generation.max_tokens,
                context_tokens=info.context_tokens,
                default_tokens=self.config.limits.default_max_tokens,
            )
            for generation in generations
        ]

    def _look_again(self, tenant: Tenant, actor: Actor, generations: Sequence[Generation]) -> Tenant:
        """The current tenant of a waiting request. Raises if the request can no longer start."""
        tenant = as_it_is(self.directory, tenant.name, tenant.id, actor.key_id)
        self._check(tenant, generations)
        return tenant

    def _check_open(self, tenant: Tenant) -> EngineInfo:
        """What is loaded. Raises if requests of this tenant are not accepted now."""
        if self.draining:
            raise Draining("the daemon is shutting down and accepts no new requests")
        if tenant.state is TenantState.SUSPENDED:
            raise TenantSuspended(f"tenant {tenant.name} is suspended")
        engine = self.supervisor
        if engine.state is EngineState.FAILED:
            retry_after_s = None if engine.is_hopeless else int(SLOWEST_RESTART_S)
            raise EngineUnavailable(f"the engine is not running: {engine.reason}", retry_after_s=retry_after_s)
        if engine.info is None or engine.state is EngineState.STOPPED:
            raise EngineUnavailable(f"the model is loading ({engine.progress:.0%})", retry_after_s=LOADING_RETRY_S)
        if not self.ledger.healthy:
            raise LedgerUnavailable(f"cannot write the ledger: {self.ledger.trouble}")
        return engine.info

    def _check_queue(self, tenant: Tenant, more: int, refusal: TenantdError | None) -> None:
        """Raises QueueFull if there is no place for `more` requests; with `refusal` they wait for limits per minute."""
        info, count, held = self.supervisor.info, self._live.count(tenant.name), self._gate.waiting(tenant.name)
        assert info is not None, "checked before"
        if may_wait(
            tenant,
            waiting=count.waiting,
            running=count.running,
            others=len(self._live) - count.waiting - count.running,
            slots=info.slots,
            held=held,
            more=more,
            is_held=refusal is not None,
        ):
            return
        raise full_queue(
            tenant,
            count,
            held,
            more=more,
            refusal=refusal,
            retry_after_s=self._replica.throughput.wait_s(
                self._clock_s(), len(self._live.waiting_tenants()), self._live.oldest_s()
            ),
        )

    def _end_at(self, deadline: Deadline, stream: LiveStream) -> None:
        timer = asyncio.get_running_loop().call_later(
            max(0.0, deadline.at_s - self._clock_s()),
            functools.partial(self._replica.end, stream, FinishReason.CANCELLED, deadline.error()),
        )
        stream.finished.add_done_callback(lambda _: timer.cancel())

    def _new_streams(
        self, tenant: Tenant, generations: Sequence[Generation], most_tokens: Sequence[int], actor: Actor
    ) -> list[LiveStream]:
        """A stream for each generation. Raises InvalidRequest if one does not fit a command to the engine."""
        shared: dict[int, SharedSampling] = {}
        streams = []
        for generation, max_tokens in zip(generations, most_tokens, strict=True):
            self._number += 1
            sampling = generation.sampling
            of_it = shared.setdefault(id(sampling), SharedSampling(self._number, sampling))
            streams.append(self._new_stream(tenant, generation, max_tokens, of_it, actor))
        commands: list[Command] = [each.command() for each in shared.values()]
        commands += [stream.submit_command() for stream in streams]
        if any(bytes_at_most(command) > MAX_COMMAND_BYTES for command in commands):
            raise InvalidRequest("the prompt and its sampling settings are too large for the engine")
        return streams

    def _new_stream(
        self, tenant: Tenant, generation: Generation, max_tokens: int, sampling: SharedSampling, actor: Actor
    ) -> LiveStream:
        created_micros = self._now_micros()
        return LiveStream(
            request_id=new_request_id(created_micros),
            number=self._number,
            tenant=tenant.name,
            tenant_id=tenant.id,
            actor=actor,
            prompt=generation.prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=generation.seed(),
            counts_prompt=generation.counts_prompt,
            adapter=tenant.adapter,
            text=TextStream(self.vocabulary, generation.stops),
            created_micros=created_micros,
            clock_s=self._clock_s,
            on_abandon=self._on_abandon,
        )

    def _on_abandon(self, stream: LiveStream) -> None:
        self._replica.end(stream, FinishReason.DISCONNECTED, None)

    def _on_refused(self, stream: LiveStream, error: TenantdError) -> None:
        """End a request that has no row; its usage is charged to nobody."""
        if not stream.is_refused:
            stream.refuse(error)
            self._replica.refused(stream)
        self._replica.end(stream, FinishReason.FAILED, error)

    def _shares(self) -> list[TenantPolicy]:
        return shares(self.directory.tenants.values(), self.config.engine.slots)

    # ---- status --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Current state of engine, ledger and tenants."""
        total, paused = self._live.total(), sum(self._live.paused().values())
        status = engine_status(self.supervisor)
        if self.draining:
            status["state"] = "draining"
        return {
            **status,
            "engine_busy_micros": self._replica.busy_micros,
            "engine_unbilled_micros": self._replica.unbilled_micros,
            "swaps": self._replica.swaps,
            "recomputes": self._replica.recomputes,
            "running": total.running - paused,
            "paused": paused,
            "waiting": total.waiting + self._gate.total_waiting,
            "ledger": ledger_status(self.ledger, is_paused=self._standstill.is_paused),
            "tenants": tenants_status(
                self.directory.tenants.values(),
                self._live,
                self._gate.waiting,
                self._replica.board,
                self._clock_s(),
                self.config.scheduler.half_life_s,
            ),
        }

    def idle_check(self) -> None:
        """Invariants while nothing is live. Raises AssertionError, which means a bug."""
        self._replica.idle_check()
        assert self._rows.open_rows == 0, "what has ended is settled"
        self._gate.idle_check()


def _shutting_down() -> RequestCancelled:
    return RequestCancelled("the daemon is shutting down")
