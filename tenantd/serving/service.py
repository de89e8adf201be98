"""The service: checks a request, runs it in the engine, and settles it in the ledger.

Everything here happens in one event loop. `Entrance` decides which requests come in. `Replica` runs them, and
`RequestRows` has their rows until they are settled; a request is in both from its admission.
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
from tenantd.domain import NOBODY, Actor, Breach, FinishReason, Tenant
from tenantd.errors import Draining, LedgerUnavailable, QueueFull
from tenantd.events import Events
from tenantd.fleet.checkup import Checkup
from tenantd.fleet.replica import Replica
from tenantd.fleet.supervisor import ENGINE_COMMAND, SLOWEST_RESTART_S, STOP_TIMEOUT_S, Supervisor
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.reports import Booked, RecentUsage
from tenantd.live.generation import Generation
from tenantd.live.streams import LiveStream
from tenantd.serving.admission import changed_hands, renamed
from tenantd.serving.allowances import Allowances, Clocks
from tenantd.serving.attempts import Attempt, Attempts
from tenantd.serving.carryover import decayed_usage, newcomers_level, recall_minute
from tenantd.serving.entrance import Entrance
from tenantd.serving.entries import PromptHashes
from tenantd.serving.gate import Deadline, Gate
from tenantd.serving.isolation import Isolation, IsolationReport
from tenantd.serving.overview import engine_status, ledger_status, tenants_status, work_status
from tenantd.serving.own import OwnRequests, cancel_whole
from tenantd.serving.permissions import Permissions
from tenantd.serving.policies import shares
from tenantd.serving.positions import Positions
from tenantd.serving.repeats import Repeats
from tenantd.serving.rows import RequestRows, admission
from tenantd.serving.sketching import Sketching
from tenantd.serving.standstill import Standstill
from tenantd.serving.steadiness import steadily
from tenantd.serving.stopping import CANCEL_GRACE_S, SETTLE_GRACE_S, UNHURRIED, Stage, StopClock, shutting_down
from tenantd.serving.system_prompts import check_fits
from tenantd.tenancy.administration import Administration
from tenantd.tenancy.directory import Directory, KnownKey
from tenantd.tenancy.key_uses import KeyUses
from tenantd.tenancy.rates import Rates, RateState
from tenantd.text.chat import ChatFormatter
from tenantd.text.grammar import GrammarCompiler
from tenantd.text.pool import TextPool
from tenantd.text.sketches import Sketcher
from tenantd.text.vocabulary import Vocabulary
from tenantd.wire.messages import CheckResult, TenantPolicy

log = logging.getLogger(__name__)

MOST_QUEUED_SHOWN: Final = 100
RELOAD_INTERVAL_S: Final = 1.0


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
    ) -> None:
        """`command` and `environment` are for the engine process; `config` may be replaced. `sketcher` may be None.

        `on_tenants` hears all names whenever tenants have changed: first without those that are new or changed hands.
        """
        self.config, self.events = config, events or Events()
        self.ledger, self.directory = ledger, directory
        self.vocabulary, self.chat = vocabulary, chat
        self.pool, self.grammars = TextPool(), GrammarCompiler()
        self.started_micros = now_micros()
        self._on_tenants = on_tenants
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
        self._make_parts(now_micros, clock_s)
        self._sketching = Sketching(sketcher, self.pool, self.events)
        self.isolation = Isolation(self._replica, self.events, directory)
        self._background: list[asyncio.Task[None]] = []
        self._reloading: asyncio.Task[None] | None = None  # while a change is committed but cannot be read

    def _make_parts(self, now_micros: Callable[[], int], clock_s: Callable[[], float]) -> None:
        """What leads a request to the replica, and its row to the ledger."""
        ledger, directory, self._clock_s = self.ledger, self.directory, clock_s
        self._gate = Gate(self._rates, clock_s)
        self._permissions = Permissions(directory, self._replica, self._gate)
        self._positions = Positions(self._replica, clock_s)
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
        self.repeats = Repeats(directory, self._gate, self.attempts.answers)

    @functools.cached_property
    def administration(self) -> Administration:
        """What administrators, and parts of the daemon like them, can do."""
        records = self.config.security.is_audited
        slots, caches = self.config.engine.slots, self.config.cache.host_bytes > 0
        return Administration(self.ledger, self, self.events, slots, records=records, caches=caches)

    @functools.cached_property
    def own(self) -> OwnRequests:
        """What tenants may see and end of their own requests."""
        return OwnRequests(self._replica, self._gate.waiting)

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
        await self.budgets.reload()
        self.supervisor.start()
        works = (self._standstill.run, self._permissions.watch_keys, self.budgets.run, self.attempts.prune)
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
        await self.supervisor.stop(clock.most(STOP_TIMEOUT_S, Stage.ENGINE))
        for task in (*self._background, self._reloading):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._background, self._reloading = [], None
        await self._sketching.close()
        await asyncio.to_thread(self.pool.close)
        await self._rows.close(clock.most(SETTLE_GRACE_S, Stage.ENGINE))

    async def tenants_changed(self) -> None:
        """Reload tenants, tell the engine, end what may not run.

        Raises LedgerUnavailable or QueueFull if they cannot be read now. Then nothing has changed yet, and it is tried
        again every second until it works.
        """
        try:
            await self._reload()
        except (LedgerUnavailable, QueueFull) as e:
            if self._reloading is None or self._reloading.done():
                log.error("cannot read the tenants, and try again every second: %s", e.message)
                self._reloading = asyncio.create_task(self._reload_at_last())
            raise

    async def budgets_changed(self) -> None:
        """Reload budgets and prices, and end what may not run. Raises as `tenants_changed` does."""
        await self.tenants_changed()

    async def _reload(self) -> None:
        self._tenants_are_new_since(await self.directory.reload(self.ledger))
        await self.budgets.reload()

    async def _reload_at_last(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_INTERVAL_S)
            with contextlib.suppress(LedgerUnavailable, QueueFull):
                await self._reload()
                log.warning("the tenants are read again, and their changes are in force")
                return

    def tenant_removed(self, tenant_id: int | None) -> None:
        """End the requests of a tenant whose removal is committed, and forget it."""
        before = self.directory.tenants
        self.directory.remove(tenant_id)
        self._tenants_are_new_since(before)

    def tenant_suspended(self, tenant_id: int | None) -> None:
        """Admit no more requests of a tenant whose suspension is committed."""
        before = self.directory.tenants
        self.directory.suspend(tenant_id)
        self._tenants_are_new_since(before)

    def _tenants_are_new_since(self, before: Mapping[str, Tenant]) -> None:
        after = self.directory.tenants
        moved = renamed(before, after)
        for old, name in moved:
            self._rates.rename(old, name)
        self._rates.keep(after.keys())
        self.attempts.tenants_are(after)
        self._key_uses.forget_unless(self.directory.has_key)
        self._permissions.enforce()
        kept = {name for _, name in moved}
        names = changed_hands(before, after)
        if self._on_tenants is not None:
            self._on_tenants(after.keys() - names)
            self._on_tenants(after)
        for name in names:
            if name not in kept:
                self._rates.forget(name)  # with what was booked for the last tenant of this name after its removal
            self._replica.forget(name)
        self._limits_changed()

    def reconfigure(self, config: Config) -> None:
        """Use this configuration from now on. Default limits take effect at once, in the engine too."""
        self.config = config
        self.directory.use_defaults(config.limits.as_limits(), config.cache.is_on)
        self._limits_changed()

    def _limits_changed(self) -> None:
        for share in self._shares():
            self.supervisor.send(share)
        self._gate.wake()

    def has_requests(self, tenant: str) -> bool:
        """Whether requests under this name are live, wait for its limits per minute, or are not settled yet."""
        return self._rows.has(tenant) or bool(self._gate.waiting(tenant))

    def key_revoked(self, key_id: str) -> None:
        """End the requests of a key whose revocation is committed, and admit no new ones."""
        self.directory.revoke(key_id)
        self._gate.wake()
        self._permissions.enforce()

    def key_used(self, key: KnownKey, actor: Actor) -> None:
        """A request shows this key."""
        self._key_uses.note(key, actor)

    # ---- requests -----------------------------------------------------------------------------------------------

    async def submit(self, tenant: Tenant, generation: Generation) -> LiveStream:
        """`submit_all` of one."""
        [stream] = await self.submit_all(tenant, [generation])
        return stream

    async def submit_all(
        self,
        tenant: Tenant,
        generations: Sequence[Generation],
        timeout_s: float | None = None,
        actor: Actor = NOBODY,
        attempt: Attempt | None = None,
    ) -> list[LiveStream]:
        """Start all generations of one client's request, or none, once the tenant's limits per minute admit it.

        They count it as one request. Rows are written while the engine already works; `started()` waits for both.
        Generations that are not complete after `timeout_s` end with RequestTimeout. With an `attempt`, its key is
        written together with all rows.
        Raises Draining, TenantSuspended, EngineUnavailable,
        LedgerUnavailable, InvalidRequest and its subclasses, Forbidden, QueueFull, RequestsPerMinuteExceeded,
        TokensPerMinuteExceeded, RequestTimeout, and KeyRevoked if the key was revoked or has expired.
        """
        deadline = None if timeout_s is None else Deadline(timeout_s, self._clock_s() + timeout_s)
        tenant, streams = await self._entrance.let_in(tenant, generations, deadline, actor)
        self._positions.assign(tenant, streams)
        if attempt is not None:
            attempt.streams = streams
        hashes = PromptHashes()
        for stream, generation in zip(streams, generations, strict=True):
            self._replica.run(stream)
            row = admission(stream, generation.kind, self.config.model_name, unbilled=tenant.unbilled)
            self._rows.open(stream, generation, row, self._replica.refuse, hashes, attempt)
            if deadline is not None:
                self._end_at(deadline, stream)
        self._sketching.begin(tenant, generations)
        return streams

    async def check_system_prompt(self, text: str) -> None:
        """Raises InvalidRequest if a chat with this system prompt does not fit the context, if that is known, or cannot
        show it."""
        info = self.supervisor.info
        await check_fits(text, self.chat, self.pool, None if info is None else info.context_tokens)

    def cancel(self, request_id: str) -> bool:
        """Cancel a live request, with all its choices, for an administrator; generated tokens are billed. False if
        there is none."""
        if stream := self._live.find(request_id):
            cancel_whole(self._replica, stream, "an administrator cancelled the request")
        return stream is not None

    def misdirected(self, stream: LiveStream, other: str) -> None:
        """A stream was about to be written to a connection of tenant `other`, which it does not belong to."""
        self._replica.break_off(stream, Breach.CONNECTION, other=other)

    def queue(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """The first requests without a token, of all tenants or of one, in the order in which they should get one."""
        return self._positions.waiting(tenant, MOST_QUEUED_SHOWN)

    def rates(self, tenant: Tenant) -> dict[str, RateState]:
        """What is left of the tenant's limits per minute, for those that are set."""
        return self._gate.states(tenant)

    def _end_at(self, deadline: Deadline, stream: LiveStream) -> None:
        timer = asyncio.get_running_loop().call_later(
            max(0.0, deadline.at_s - self._clock_s()),
            functools.partial(self._replica.end, stream, FinishReason.CANCELLED, deadline.error()),
        )
        stream.finished.add_done_callback(lambda _: timer.cancel())

    def _shares(self) -> list[TenantPolicy]:
        return shares(self.directory.tenants.values(), self.config.engine.slots)

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
        replicas = [self._replica]
        return {
            **engine_status(self.supervisor, self.checking, is_draining=self.draining),
            **work_status(replicas, self._gate.total_waiting),
            "ledger": ledger_status(self.ledger, is_paused=self._standstill.is_paused),
            "isolation": self.isolation.status(),
            "unwatched_prompts": self._sketching.left_out,
            "is_checking_isolation": self.isolation.is_on,
            "tenants": tenants_status(self.directory.tenants, replicas, self._gate.waiting, self.budgets.states),
        }

    def idle_check(self) -> None:
        """Invariants while nothing is live. Raises AssertionError, which means a bug."""
        self._replica.idle_check()
        assert self._rows.open_rows == 0, "what has ended is settled"
        self._gate.idle_check()
        self.budgets.idle_check()
