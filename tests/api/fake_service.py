"""The service's interface without an engine: real streams, driven by a script the test can change."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from tenantd.config import Config
from tenantd.domain import NOBODY, Actor, FinishReason, Scope, Tenant, TenantState, TokenLogprobs
from tenantd.errors import Draining, RequestCancelled, TenantdError, TenantSuspended
from tenantd.events import Events
from tenantd.live.generation import Generation, SharedSampling
from tenantd.live.streams import LiveStream
from tenantd.serving.kept_responses import KeptResponses
from tenantd.serving.rows import settled
from tenantd.serving.unattended import Background
from tenantd.tenancy.administration import Administration
from tenantd.tenancy.budgets import Budgets
from tenantd.tenancy.directory import KnownKey
from tenantd.tenancy.keys import TENANT_SCOPES
from tenantd.tenancy.rates import RateState
from tenantd.text.chat import ChatFormatter
from tenantd.text.grammar import GrammarCompiler
from tenantd.text.images import Images
from tenantd.text.pool import TextPool
from tenantd.text.vocabulary import ByteVocabulary
from tenantd.wire.messages import EngineInfo, Progress, Submit

INFO = EngineInfo(
    model="tiny",
    parameters=1,
    model_bytes=1,
    train_context_tokens=512,
    context_tokens=512,
    slots=4,
    vocabulary=258,
    kv="streams",
    kv_bytes=0,
    device="none",
    layers=0,
    layers_offloaded=0,
    gpu_build=False,
    threads=1,
    llama_version="0",
    fingerprint="fp_0",
)


class FakeSupervisor:
    def __init__(self) -> None:
        self.state = "ready"
        self.progress = 1.0
        self.reason = ""
        self.info: EngineInfo | None = INFO
        self.restarts = 0

    @property
    def explained(self) -> str:
        return self.reason


class FakeDirectory:
    """acme and globex have keys, and there is one that administers; uids and scopes are for the test to give."""

    def __init__(self) -> None:
        self.tenants = {name: Tenant(name=name) for name in ("acme", "globex")}
        self.tenants["closed"] = Tenant(name="closed", state=TenantState.SUSPENDED)
        self.keys = {f"td_{name}": name for name in self.tenants}
        self.scopes: dict[str, frozenset[Scope]] = {}  # of keys that have not all those of a tenant's
        self.admin_key = "td_admin"
        self.uids: dict[int, list[str]] = {}

    def key_for(self, secret: str) -> KnownKey | None:
        if secret == self.admin_key:
            return KnownKey(None, "key_admin", frozenset({Scope.ADMIN}), is_used=False)
        name = self.keys.get(secret)
        scopes = self.scopes.get(secret, frozenset(TENANT_SCOPES))
        return KnownKey(self.tenants[name], f"key_{name}", scopes, is_used=False) if name else None

    def has_key(self, key_id: str) -> bool:
        return key_id == "key_admin" or key_id.removeprefix("key_") in self.keys.values()

    def revoke(self, key_id: str) -> None:
        self.keys = {secret: name for secret, name in self.keys.items() if f"key_{name}" != key_id}

    def system_prompt_hmac(self, tenant: Tenant) -> str | None:
        return None

    def by_uid(self, uid: int) -> list[Tenant]:
        return [self.tenants[name] for name in self.uids.get(uid, [])]


class FakeTextRequests:
    """Admits whoever is not suspended, until there is a `refusal`."""

    def __init__(self) -> None:
        self.refusal: TenantdError | None = None

    def count(self, tenant: Tenant, actor: Actor) -> None:
        if tenant.state is TenantState.SUSPENDED:
            raise TenantSuspended(f"{tenant.name} is suspended")
        if self.refusal is not None:
            raise self.refusal


class FakeOwn:
    """Tenants end their own requests."""

    def __init__(self, service: FakeService) -> None:
        self._service = service

    def cancel(self, tenant_id: int | None, request_id: str) -> None:
        [stream] = [one for one in self._service.streams if (one.id, one.tenant_id) == (request_id, tenant_id)]
        stream.error = RequestCancelled("the tenant cancelled the request")
        self._service.cancel(request_id)


class FakeService:
    """Answers every request with `answer`, a token for each byte, as far as `gate` lets it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory: Any = FakeDirectory()
        self.ledger: Any = None
        self.vocabulary = ByteVocabulary()
        self.chat = ChatFormatter(self.vocabulary)
        self.embedding_vocabulary = self.vocabulary
        self.text_requests = FakeTextRequests()
        self.pool = TextPool()
        self.grammars = GrammarCompiler()
        self.images = Images(config.images)
        self.supervisor = FakeSupervisor()
        self.events = Events()
        self.administration = Administration(self.ledger, cast(Any, self), self.events, slots=4, records=False)
        self.draining = False
        self.checking: Any = None
        self.started_micros = 1_700_000_000_000_000
        self.answer = "Hello, wörld!"
        self.refusal: TenantdError | None = None  # raised by submit
        self.failure: TenantdError | None = None  # how the stream ends, after `fail_after` tokens
        self.fail_after = 0
        self.unsettled: TenantdError | None = None  # the row could not be written
        self.hold_after: int | None = None  # tokens after which it waits for `release`
        self.release = asyncio.Event()
        self.hold_submit = False  # requests wait for their tenant's limits for ever
        self.held = 0
        self.rate_states: dict[str, dict[str, RateState]] = {}
        self.budgets = Budgets()
        self.responses = KeptResponses(64 * 1024, 3600, time.monotonic)
        self.responses.tenants_are({"acme": Tenant(name="acme")})
        self.background = Background()
        self.own = FakeOwn(self)
        self.timeouts_s: list[float | None] = []
        self.streams: list[LiveStream] = []
        self.keys_used: list[tuple[str, Actor]] = []
        self.misdirections: list[tuple[str, str]] = []
        self.generations: list[Generation] = []
        self._kinds: dict[int, str] = {}  # by number
        self._tasks: set[asyncio.Task[None]] = set()

    def check_early(self, tenant: Tenant, prompt_tokens: int) -> None:
        """Refuses nothing that `submit` would not."""

    async def submit(self, tenant: Tenant, generation: Generation, actor: Actor = NOBODY) -> LiveStream:
        if self.draining:
            raise Draining("shutting down")
        if tenant.state is TenantState.SUSPENDED:
            raise TenantSuspended(f"{tenant.name} is suspended")
        if self.refusal is not None:
            raise self.refusal
        number = len(self.streams) + 1
        stream = LiveStream(
            Submit(
                request=number,
                tenant=tenant.name,
                prompt=generation.prompt,
                hidden_tokens=generation.hidden_tokens,
                max_tokens=generation.max_tokens or 100,
                sampling=number,
                counts_prompt=generation.counts_prompt,
            ),
            SharedSampling(number, generation.sampling),
            generation.text_stream(self.vocabulary),
            request_id=f"req_{number:032x}",
            tenant_id=tenant.id,
            actor=actor,
            created_micros=1_700_000_000_000_000,
            clock_s=time.monotonic,
            on_abandon=lambda stream: self._end(stream, FinishReason.DISCONNECTED),
        )
        self.streams.append(stream)
        self.generations.append(generation)
        self._kinds[number] = generation.kind
        task = asyncio.create_task(self._drive(stream, generation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stream

    async def submit_all(
        self,
        tenant: Tenant,
        generations: list[Generation],
        timeout_s: float | None = None,
        actor: Actor = NOBODY,
        attempt: None = None,
    ) -> list[LiveStream]:
        self.timeouts_s.append(timeout_s)
        if self.hold_submit:
            self.held += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.held -= 1
        return [await self.submit(tenant, generation, actor) for generation in generations]

    def misdirected(self, stream: LiveStream, other: str) -> None:
        self.misdirections.append((stream.id, other))
        self._end(stream, FinishReason.FAILED)

    def key_used(self, key: KnownKey, actor: Actor) -> None:
        self.keys_used.append((key.id, actor))

    def live_states(self) -> dict[str, str]:
        return {s.id: "running" for s in self.streams if s.finish_reason is None}

    def queue(self, tenant: str | None = None) -> list[dict[str, Any]]:
        waiting = [s for s in self.streams if s.finish_reason is None and not s.generated]
        return [{"id": s.id, "client_request_id": s.client_id} for s in waiting if tenant in (None, s.tenant)]

    def rates(self, tenant: Tenant) -> dict[str, RateState]:
        return self.rate_states.get(tenant.name, {})

    def cancel(self, request_id: str) -> bool:
        live = [s for s in self.streams if s.id == request_id and s.finish_reason is None]
        for stream in live:
            self._end(stream, FinishReason.CANCELLED)
        return bool(live)

    def status(self) -> dict[str, Any]:
        return {
            "state": self.supervisor.state,
            "engine_restarts": self.supervisor.restarts,
            "swaps": 0,
            "recomputes": 0,
            "running": 0,
            "paused": 0,
            "waiting": 0,
            "ledger": {"healthy": True, "trouble": "", "wal_bytes": 0, "requests_paused": False, "anchor": None},
            "isolation": None,
            "unwatched_prompts": 0,
            "is_checking_isolation": False,
            "tenants": [
                {
                    "name": n,
                    "running": 0,
                    "paused": 0,
                    "waiting": 0,
                    "usage": 0.0,
                    "throttled": False,
                    "cache_bytes": None,
                }
                for n in self.directory.tenants
            ],
        }

    @property
    def changes(self) -> Any:
        """It puts them into force itself."""
        return self

    async def budgets_changed(self) -> None:
        await self.budgets.reload(self.ledger)

    async def tenants_changed(self) -> None:
        await self.directory.reload(self.ledger)

    async def _drive(self, stream: LiveStream, generation: Generation) -> None:
        stream.make_durable()
        logprobs = generation.sampling.logprobs
        for number, token in enumerate(self.answer.encode()):
            if self.failure is not None and number == self.fail_after:
                self._end(stream, FinishReason.FAILED, self.failure)
            if number == self.hold_after:
                await self.release.wait()
            if stream.finish_reason is not None:
                return
            top = None if logprobs is None else TokenLogprobs(-0.5, ((token, -0.5), (33, -2.0))[:logprobs])
            prefilled = len(generation.prompt) if number == 0 else 0
            stream.advance(Progress(stream.number, 1, prefilled, token, 10, top))
            if stream.is_stopped:
                self._end(stream, FinishReason.STOP)
            elif number + 1 == stream.max_tokens:
                self._end(stream, FinishReason.LENGTH)
            await asyncio.sleep(0)
        self._end(stream, FinishReason.STOP)

    def _end(self, stream: LiveStream, reason: FinishReason, error: TenantdError | None = None) -> None:
        if stream.finish_reason is None:
            stream.finish(reason, error)
            self.events.announce(settled(stream, self._kinds[stream.number]))
            stream.settle(self.unsettled)
