"""The service: checks a request, runs it in the engine, and settles it in the ledger.

Everything here happens in one event loop. A request starts in `Submission`; what administrators change is put into
force by `Changes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from tenantd import costs
from tenantd.clock import now_micros
from tenantd.config import Config
from tenantd.domain import Actor, Breach, FinishReason, RequestKind, Tenant
from tenantd.errors import Draining
from tenantd.events import Events
from tenantd.fleet.checkup import Checkup
from tenantd.fleet.replica import Replica
from tenantd.fleet.supervisor import ENGINE_COMMAND, SLOWEST_RESTART_S, STOP_TIMEOUT_S, Supervisor
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.reports import Booked, RecentUsage
from tenantd.live.generation import Generation
from tenantd.live.streams import LiveStream
from tenantd.serving.allowances import Allowances, Clocks
from tenantd.serving.attempts import Attempts
from tenantd.serving.carryover import decayed_usage, newcomers_level, recall_minute
from tenantd.serving.changes import Changes
from tenantd.serving.entrance import Entrance
from tenantd.serving.gate import Gate
from tenantd.serving.isolation import Isolation, IsolationReport
from tenantd.serving.kept_responses import KeptResponses
from tenantd.serving.last_hour import LastHour, Work
from tenantd.serving.moment import Moment
from tenantd.serving.overview import (
    cache_status,
    engine_status,
    ledger_status,
    tenants_status,
    tenants_work,
    work_status,
)
from tenantd.serving.own import OwnRequests
from tenantd.serving.permissions import Permissions
from tenantd.serving.policies import shares
from tenantd.serving.positions import Positions
from tenantd.serving.repeats import Repeats
from tenantd.serving.rows import RequestRows
from tenantd.serving.sketching import Sketching
from tenantd.serving.standstill import Standstill
from tenantd.serving.steadiness import steadily
from tenantd.serving.stopping import CANCEL_GRACE_S, SETTLE_GRACE_S, UNHURRIED, Stage, StopClock, shutting_down
from tenantd.serving.submission import Submission
from tenantd.serving.text_requests import TextRequests
from tenantd.serving.unattended import Background
from tenantd.tenancy.administration import Administration
from tenantd.tenancy.directory import Directory, KnownKey
from tenantd.tenancy.key_uses import KeyUses
from tenantd.tenancy.rates import Rates, RateState
from tenantd.text.chat import ChatFormatter
from tenantd.text.grammar import GrammarCompiler
from tenantd.text.images import Images
from tenantd.text.pool import TextPool
from tenantd.text.sketches import Sketcher
from tenantd.text.vocabulary import Vocabulary
from tenantd.wire.messages import CheckResult, TenantPolicy

log = logging.getLogger(__name__)

MOST_QUEUED_SHOWN: Final = 100


class Service:
    """Leads requests through the parts of the daemon. Owns all of them except the ledger, which main closes."""

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
        on_tenants: Callable[[Iterable[str]], None] | None = None,
        sketcher: Sketcher | None = None,
        embedding_vocabulary: Vocabulary | None = None,
    ) -> None:
        """`command` and `environment` are for the engine process; `config` may be replaced. `sketcher` may be None.
        `embedding_vocabulary` is that of the model that embeds texts, if it is another.

        `on_tenants` hears all names whenever tenants have changed: first without those that are new or changed hands.
        """
        self.config, self.events = config, events or Events()
        self.ledger, self.directory = ledger, directory
        self.vocabulary, self.chat = vocabulary, chat
        self.embedding_vocabulary = embedding_vocabulary or vocabulary
        self.pool, self.grammars = TextPool(), GrammarCompiler()
        self.images = Images(config.images)
        if config.model.projector is not None:
            environment = self.images.environment(os.environ if environment is None else environment)
        self.started_micros = now_micros()
        self._replica = Replica(
            config,
            self._shares,
            rates := Rates(),
            self.events,
            command=command,
            environment=environment,
            slowest_restart_s=slowest_restart_s,
            clock_s=clock_s,
        )
        self._rates, self._live = rates, self._replica.live
        self.live_states = self._replica.states
        self._sketching = Sketching(sketcher, self.pool, self.events)
        self._make_parts(now_micros, clock_s, on_tenants)
        self.isolation = Isolation(self._replica, self.events, directory)
        self.last_hour = LastHour(self.events, self._work, lambda: self.config.scheduler, self.config.engine.slots)
        self._background: list[asyncio.Task[None]] = []

    def _make_parts(
        self,
        now_micros: Callable[[], int],
        clock_s: Callable[[], float],
        on_tenants: Callable[[Iterable[str]], None] | None,
    ) -> None:
        """What leads a request to the replica, and its row to the ledger."""
        ledger, directory, self._clock_s = self.ledger, self.directory, clock_s
        self._gate = Gate(self._rates, clock_s)
        self._permissions = Permissions(directory, self._replica, self._gate)
        self._positions = Positions(self._replica, clock_s)
        self.events.call("waits", self._positions.waits.hear)
        self.budgets = Allowances(
            ledger,
            self._replica,
            directory,
            self.events,
            lambda: self.config.billing,
            Clocks(now_micros, clock_s),
            lambda: self._rows.unsettled(),
        )
        self._entrance = Entrance(
            self._replica,
            ledger,
            directory,
            self.vocabulary,
            self._gate,
            self.budgets,
            lambda: self.config.limits,
            now_micros=now_micros,
            clock_s=clock_s,
            on_abandon=lambda stream: self._replica.end(stream, FinishReason.DISCONNECTED, None),
        )
        self._key_uses = KeyUses(ledger, self.events, now_micros=now_micros, clock_s=clock_s)
        self._rows = RequestRows(ledger, self.events, directory.audit_key, lambda: self.config, self.budgets.settled)
        self._standstill = Standstill(ledger, self._replica, self._rows, lambda: self.config.ledger.settle_timeout_s)
        kept_bytes = self.config.server.idempotency_bytes
        self.attempts = Attempts(ledger, kept_bytes, now_micros, clock_s, self._entrance.wait_s)
        kept = self.config.responses
        self.responses, self.background = KeptResponses(kept.bytes_per_tenant, kept.keep_s, clock_s), Background()
        self.repeats = Repeats(directory, self._gate, self.attempts.answers, self.events)
        self.text_requests = TextRequests(directory, self._gate)
        self._submission = Submission(
            self._entrance,
            self._positions,
            self._replica,
            self._rows,
            self._sketching,
            lambda kind: self.config.embeddings_name if kind == RequestKind.EMBEDDING else self.config.model_name,
            clock_s,
        )
        self.submit_all = self._submission.submit_all
        self.check_early = self._entrance.check_early
        self.changes = self._make_changes(on_tenants)

    def _make_changes(self, on_tenants: Callable[[Iterable[str]], None] | None) -> Changes:
        return Changes(
            self.ledger,
            self.directory,
            self._replica,
            self._rows,
            rates=self._rates,
            gate=self._gate,
            permissions=self._permissions,
            attempts=self.attempts,
            responses=self.responses,
            budgets=self.budgets,
            key_uses=self._key_uses,
            waits=self._positions.waits,
            shares=self._shares,
            chat=self.chat,
            pool=self.pool,
            on_tenants=on_tenants,
        )

    @functools.cached_property
    def administration(self) -> Administration:
        """What administrators, and parts of the daemon like them, can do."""
        records = self.config.security.is_audited
        slots, caches = self.config.engine.slots, self.config.cache.host_bytes > 0
        return Administration(self.ledger, self.changes, self.events, slots, records=records, caches=caches)

    @functools.cached_property
    def own(self) -> OwnRequests:
        """What tenants may see and end of their own requests."""
        return OwnRequests(self._replica, self._gate.waiting)

    @functools.cached_property
    def moment(self) -> Moment:
        """What everybody has at the moment."""
        return Moment(self._replica, self._gate, self.budgets, self._positions, lambda: self.config.scheduler)

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor of the engine process."""
        return self._replica.supervisor

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._entrance.is_closed

    @property
    def checking(self) -> Checkup | None:
        """The check of isolation that is in progress, for which requests wait."""
        return self._replica.checkup if self._replica.checkup.is_on else None

    # ---- the life of the service --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the tenants and start loading the model; `supervisor.wait_ready()` returns when that is done.

        Raises LedgerUnavailable.
        """
        await self.directory.reload(self.ledger)
        self.attempts.tenants_are(self.directory.tenants)
        self.responses.tenants_are(self.directory.tenants)
        await self.budgets.reload()
        self.supervisor.start()
        works = (
            self._standstill.run,
            self._permissions.watch_keys,
            self.budgets.run,
            self.attempts.prune,
            self.responses.sweep,
            self.last_hour.run,
        )
        self._background = [asyncio.create_task(steadily(work)) for work in works]

    def remember(self, recent: Iterable[RecentUsage], booked: Iterable[Booked]) -> None:
        """Take over earlier usage. Call it before `start`. `booked` covers the last minute, oldest first."""
        now_s = self._clock_s()
        usage = decayed_usage(recent, self.directory.tenants, self.config.scheduler)
        self._replica.board.update(usage, newcomers_level(usage), now_s)
        recall_minute(booked, self.directory.tenants, self._rates, round(now_s * 1e6))

    async def drain(self, timeout_s: float, clock: StopClock = UNHURRIED) -> None:
        """Refuse new requests, let live ones finish for `timeout_s`, cancel the rest, and settle everything."""
        self._entrance.is_closed = True
        self.isolation.end("the daemon is shutting down")
        self._gate.wake()
        timeout_s = clock.most(timeout_s, Stage.DRAIN)
        if not await self._live.wait_until_empty(timeout_s):
            log.warning("cancelling %d requests that did not finish within %g s", len(self._live), timeout_s)
            for stream in self._live:
                self._replica.end(stream, FinishReason.CANCELLED, shutting_down())
            await self._live.wait_until_empty(clock.most(CANCEL_GRACE_S, Stage.SETTLE))
        self._replica.finish_all(FinishReason.CANCELLED, shutting_down())
        await self._rows.closed(clock.most(self.config.ledger.settle_timeout_s, Stage.SETTLE))

    async def stop(self, clock: StopClock = UNHURRIED) -> None:
        """Stop the engine and end all live requests. Safe to call twice, and without `drain`."""
        self._entrance.is_closed = True
        self.isolation.end("the daemon is shutting down")
        self.ledger.end_reports()
        self._gate.wake()
        self._replica.finish_all(FinishReason.CANCELLED, shutting_down())
        await self.grammars.close()
        await self.images.close()
        await self.supervisor.stop(clock.most(STOP_TIMEOUT_S, Stage.ENGINE))
        await self.changes.close()
        for task in self._background:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._background = []
        await self._sketching.close()
        await asyncio.to_thread(self.pool.close)
        await self._rows.close(clock.most(SETTLE_GRACE_S, Stage.ENGINE))

    def reconfigure(self, config: Config) -> None:
        """Use this configuration from now on. Default limits take effect at once, in the engine too."""
        self.config = config
        self.directory.use_defaults(config.limits.as_limits(), config.cache.is_on)
        self.changes.limits_changed()

    def key_used(self, key: KnownKey, actor: Actor) -> None:
        """A request shows this key."""
        self._key_uses.note(key, actor)

    # ---- requests -----------------------------------------------------------------------------------------------

    async def submit(self, tenant: Tenant, generation: Generation) -> LiveStream:
        """`submit_all` of one."""
        [stream] = await self.submit_all(tenant, [generation])
        return stream

    def misdirected(self, stream: LiveStream, other: str) -> None:
        """A stream was about to be written to a connection of tenant `other`, which it does not belong to."""
        self._replica.break_off(stream, Breach.CONNECTION, other=other)

    def queue(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """The first requests without a token, of all tenants or of one, in the order in which they should get one."""
        return self._positions.waiting(tenant, MOST_QUEUED_SHOWN)

    def rates(self, tenant: Tenant) -> dict[str, RateState]:
        """What is left of the tenant's limits per minute, for those that are set."""
        return self._gate.states(tenant)

    @property
    def cache_shares(self) -> tuple[int, list[float]]:
        """`cache.host_bytes`, and the weights by which those with a cache share it; one if nobody is there yet."""
        weights = [costs.full_weight(tenant) for tenant in self.directory.tenants.values() if tenant.is_cached]
        return self.config.cache.host_bytes, weights or [1.0] * (self.config.cache.default == "on")

    def _shares(self) -> list[TenantPolicy]:
        return shares(self.directory.tenants.values(), self.config.engine.slots)

    def _work(self) -> dict[int, Work]:
        return tenants_work(self.directory.tenants, [self._replica], self._gate.waiting)

    async def check_isolation(
        self, actor: Actor, *, quick: bool, outside: Sequence[CheckResult], turn: str = ""
    ) -> IsolationReport:
        """Let the engine check the isolation between tenants, while requests wait; see Isolation.check. Raises
        Draining, CheckRunning, EngineUnavailable."""
        if self.draining:
            raise Draining("the daemon is shutting down")
        return await self.isolation.check(actor, quick=quick, outside=outside, turn=turn)

    # ---- status --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Current state of engine, ledger and tenants."""
        tenants = tenants_status(self.directory.tenants, [self._replica], self._gate.waiting, self.budgets.states)
        return {**self.whole_status(), "tenants": tenants}

    def whole_status(self) -> dict[str, Any]:
        """The same without what each tenant has, for whoever looks every second."""
        replicas, tenants = [self._replica], self.directory.tenants
        return {
            **engine_status(self.supervisor, self.checking, is_draining=self.draining),
            **work_status(replicas, self._gate.total_waiting),
            "ledger": ledger_status(self.ledger, is_paused=self._standstill.is_paused),
            "isolation": self.isolation.status(),
            "unwatched_prompts": self._sketching.left_out,
            "is_checking_isolation": self.isolation.is_on,
            "cache": cache_status(tenants, replicas, self.config.cache.host_bytes),
        }

    def idle_check(self) -> None:
        """Invariants while nothing is live. Raises AssertionError, which means a bug."""
        self._replica.idle_check()
        assert self._rows.open_rows == 0, "what has ended is settled"
        self._gate.idle_check()
        self.budgets.idle_check()
