"""A small HTTP server on a Unix socket that answers as the daemon does, in a thread. Prompts choose how it behaves."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tenantd import errors
from tenantd.domain import Limits, OwnLimits
from tenantd.errors import TenantdError
from tenantd.ledger.invoices import AuditHead, Invoice, InvoiceLine, TenantInvoice
from tenantd.ledger.paperwork import paid
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.reports import TenantUsage
from tenantd.wire.messages import EngineInfo
from tests.cli import fake_figures
from tests.cli.fake_generation import Generation

ENGINE = EngineInfo(
    model="gemma",
    parameters=268_098_176,
    model_bytes=253_113_856,
    train_context_tokens=32768,
    context_tokens=4096,
    slots=8,
    vocabulary=262_144,
    kv="streams",
    kv_bytes=188_743_680,
    device="CPU",
    layers=19,
    layers_offloaded=0,
    gpu_build=False,
    threads=2,
    llama_version="b1",
)
RECORD = RequestRecord(
    id="req_1",
    tenant="acme",
    kind="completion",
    model="gemma",
    state="stop",
    created_micros=1_795_000_000_000_000,
    prompt_length_tokens=7,
    max_tokens=16,
    prompt_tokens=7,
    completion_tokens=3,
    engine_micros=4_500,
    first_token_micros=1_250,
    duration_micros=6_000,
    price_id=1,
    input_nanos=700,
    output_nanos=1_200,
    engine_nanos=0,
    error="",
    tenant_id=1,
    key_id=None,
    uid=1000,
)
USAGE = TenantUsage(
    tenant="acme",
    tenant_id=1,
    requests=3,
    running=0,
    completed=1,
    cancelled=0,
    disconnected=0,
    failed=1,
    interrupted=1,
    prompt_tokens=1_000,
    completion_tokens=57,
    engine_micros=1_234_567,
    cost_nanos=123_000,
    average_duration_micros=2_000,
    p50_duration_micros=1_000,
    p99_duration_micros=3_000,
    p50_first_token_micros=500,
    p99_first_token_micros=None,
    error_rate=0.667,
)
USAGES = [USAGE]
INVOICE = Invoice(
    month="2026-11",
    timezone="UTC",
    since_micros=0,
    until_micros=1,
    currency="USD",
    open=True,
    tenants=[
        paid(each)
        for each in (
            TenantInvoice(
                tenant="acme",
                tenant_id=1,
                requests=3,
                prompt_tokens=1_000,
                completion_tokens=57,
                engine_micros=0,
                currency="USD",
                lines=[
                    InvoiceLine(description="input tokens", quantity=1_000, unit="tokens", amount_nanos=100_000),
                    InvoiceLine(description="output tokens", quantity=57, unit="tokens", amount_nanos=22_800),
                ],
                total_nanos=122_800,
            ),
            TenantInvoice(
                tenant="globex",
                tenant_id=2,
                requests=1,
                prompt_tokens=3,
                completion_tokens=0,
                engine_micros=0,
                currency="USD",
                lines=[
                    InvoiceLine(
                        description="input tokens", quantity=3, unit="tokens", amount_nanos=9_000_000_000_000_001
                    )
                ],
                total_nanos=9_000_000_000_000_001,
            ),
        )
    ],
    total_nanos=9_000_000_000_122_801,
    audit_head=AuditHead(number=1234, hash="5a" * 32),
)

ANOMALY: dict[str, Any] = {
    "number": 1,
    "at_micros": 1_795_000_000_000_000,
    "tenant_id": 1,
    "tenant": "acme",
    "action": "throttle",
    "requests": 70,
    "score": 12.5,
    "threshold": 10.0,
    "deviations": [{"signal": "logprobs", "value": 0.9, "usual": 0.1, "weight": 8.0}],
    "reasons": ["90% of the requests ask for logprobs or bias logits (usually 10%)"],
    "cleared_micros": None,
}


def _listed(tenant: dict[str, Any]) -> dict[str, Any]:
    """As the list of tenants shows it."""
    shown = {name: value for name, value in tenant.items() if name != "system_prompt"}
    return {**shown, "system_prompt_bytes": len(tenant.get("system_prompt", "").encode())}


class FakeDaemon:
    """`tenants` and `seen` (method, path, headers, body of every request) can be looked at; `failure` makes the admin
    API fail; `readiness` is taken one after the other, the last for ever."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.reset()
        routes = [
            Route("/readyz", self._readyz),
            Route("/v1/completions", Generation(self, "text"), methods=["POST"]),
            Route("/v1/chat/completions", Generation(self, "delta"), methods=["POST"]),
            Route("/v1/queue", self._queue),
            Route("/v1/models", self._models),
            Route("/v1/{path:path}", self._own, methods=["GET", "POST"]),
            Route("/admin/v1/{path:path}", self._admin, methods=["GET", "POST", "PATCH", "DELETE"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), uds=str(socket), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))

    async def _serve(self) -> None:
        await self._server.serve()

    def reset(self) -> None:
        self.tenants: dict[str, dict[str, Any]] = {}
        self.keys: list[dict[str, Any]] = []  # instead of one
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.failure: TenantdError | None = None
        self.stats = fake_figures.stats(fake_figures.listed(fake_figures.BUSY), fake_figures.listed(fake_figures.IDLE))
        self.answers: dict[tuple[str, str], Any] = {}  # by method and path, instead of the usual ones
        self.who: dict[str, Any] = {"administers": True, "tenants": []}
        self.defaults = Limits(max_queued=256)
        self.readiness: list[dict[str, Any]] = [{"status": "ready", "progress": 1.0, "reason": ""}]
        self.engine: EngineInfo | None = ENGINE
        self.disconnected = threading.Event()
        self.queue: list[dict[str, Any]] = []
        self.has_template = False
        self.context_tokens = 100
        self.pause_s = 0.0  # between pieces of an answer in Markdown
        self.anomalies: dict[str, int] = {}  # how many of a tenant were not cleared yet
        self.anchor: dict[str, Any] | None = None
        self.request: dict[str, Any] = {}  # what is different with the one in the ledger
        self.looks = asyncio.Semaphore(0)  # one for each time that somebody asked where its request stands

    def start(self) -> None:
        self._thread.start()
        pause = threading.Event()
        while not self._server.started:
            assert self._thread.is_alive()
            pause.wait(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _readyz(self, request: Request) -> JSONResponse:
        state = self.readiness.pop(0) if len(self.readiness) > 1 else self.readiness[0]
        return JSONResponse(state, 200 if state["status"] == "ready" else 503)

    async def _models(self, request: Request) -> JSONResponse:
        model = {"id": "gemma", "max_model_len": self.context_tokens, "chat_template": self.has_template}
        return JSONResponse({"object": "list", "data": [model]})

    async def _queue(self, request: Request) -> JSONResponse:
        self.looks.release()
        return JSONResponse({"waiting": self.queue})

    async def _own(self, request: Request) -> JSONResponse:
        path = f"/v1/{request.path_params['path']}"
        if path == "/v1/identity":
            return JSONResponse(self.who)
        self.seen.append((request.method, f"{path}?{request.url.query}".rstrip("?"), dict(request.headers), None))
        if (answer := self.answers.get((request.method, path))) is None:
            return JSONResponse(errors.NotFound(f"no such thing: {path}").body(), 404)
        return JSONResponse(answer)

    async def _admin(self, request: Request) -> JSONResponse:
        raw = await request.body()
        body = json.loads(raw) if raw else None
        path: str = request.path_params["path"]
        self.seen.append((request.method, f"{path}?{request.url.query}".rstrip("?"), dict(request.headers), body))
        try:
            if self.failure is not None:
                raise self.failure
            return self._answer(request.method, path.split("/"), body)
        except TenantdError as e:
            headers = {} if e.retry_after_s is None else {"retry-after": str(e.retry_after_s)}
            return JSONResponse(e.body(), e.http_status, headers)

    def _answer(self, method: str, path: list[str], body: Any) -> JSONResponse:
        if (answer := self.answers.get((method, "/".join(path)))) is not None:
            return JSONResponse(answer)
        match method, path:
            case "GET", ["status"]:
                return JSONResponse(self._status())
            case "GET", ["tenants"]:
                return JSONResponse({"tenants": [_listed(tenant) for tenant in self.tenants.values()]})
            case "POST", ["tenants"]:
                return JSONResponse({"tenant": self.add(**body), "key": "td_secret"}, 201)
            case _, [*_, "keys"] | ["keys", *_]:
                return self._keys(method, path, body)
            case "GET", ["anomalies"]:
                return JSONResponse({"anomalies": [ANOMALY]})
            case "GET", ["tenants", _, "budgets"]:
                return JSONResponse({"currency": "USD", "timezone": "UTC", "budgets": []})
            case _, ["tenants", name, *action]:
                return self._one_tenant(method, self._tenant(name), action, body)
            case "GET", ["usage"]:
                period = {"since_micros": 0, "until_micros": 1, "timezone": "UTC"}
                return JSONResponse({**period, "currency": "USD", "tenants": msgspec.to_builtins(USAGES)})
            case "GET", ["usage", by]:
                return JSONResponse(fake_figures.grouped(by))
            case "GET", ["stats"]:
                return JSONResponse(self.stats)
            case "GET", ["requests"]:
                row = {**msgspec.to_builtins(RECORD), "cost_nanos": RECORD.cost_nanos, "live_state": None}
                return JSONResponse({"requests": [{**row, **self.request}]})
            case "POST", ["requests", "req_1", "cancel"]:
                return JSONResponse({"cancelled": "req_1"})
            case "GET", ["invoices", _]:
                return JSONResponse(msgspec.to_builtins(INVOICE))
        raise errors.NotFound(f"no such thing: {'/'.join(path)}")

    def _one_tenant(self, method: str, tenant: dict[str, Any], action: list[str], body: Any) -> JSONResponse:
        if method == "DELETE":
            del self.tenants[tenant["name"]]
            return JSONResponse({"removed": tenant["name"]})
        if method == "PATCH":
            tenant.update({**body, **self._limits(tenant["limits"] | body.get("limits", {}))})
        if action == ["rename"]:
            self.tenants[body["name"]] = self.tenants.pop(tenant["name"]) | body
        elif action and action != ["anomalies", "clear"]:
            tenant["state"] = {"suspend": "suspended", "resume": "active"}[action[0]]
        if action == ["anomalies", "clear"]:
            return JSONResponse({"tenant": tenant, "cleared": self.anomalies.get(tenant["name"], 0)})
        return JSONResponse({"tenant": tenant})

    def _tenant(self, name: str) -> dict[str, Any]:
        if name not in self.tenants:
            raise errors.NotFound(f"no tenant named {name!r}")
        return self.tenants[name]

    def add(self, name: str, **settings: Any) -> dict[str, Any]:
        """Make a tenant."""
        if name in self.tenants:
            raise errors.Conflict(f"tenant {name!r} already exists")
        limits = self._limits(settings.pop("limits", {}))
        tenant = {"name": name, "weight": 1.0, "priority": "standard", "state": "active", "uids": [], "unbilled": False}
        self.tenants[name] = {**tenant, "created_micros": 1_795_000_000_000_000, **settings, **limits}
        return self.tenants[name]

    def _limits(self, own: dict[str, Any]) -> dict[str, Any]:
        """A tenant's own limits, and those that hold for it."""
        limits = msgspec.convert(own, OwnLimits)
        effective = limits.over(self.defaults)
        return {"limits": msgspec.to_builtins(limits), "effective_limits": msgspec.to_builtins(effective)}

    def _keys(self, method: str, path: list[str], body: Any) -> JSONResponse:
        match method, path:
            case "GET", _:
                return JSONResponse({"keys": self.keys or [self._key(path[1] if len(path) > 1 else None)]})
            case "POST", ["keys", old, "rotate"]:
                replaced = self._key("acme") | {"id": old, "expires_micros": 1_795_000_000_000_000}
                if not body["grace_s"]:
                    replaced["revoked_micros"] = 1
                new = self._key("acme") | {"id": "k2"}
                return JSONResponse({"key": new, "secret": "td_rotated", "replaced": replaced}, 201)
            case "POST", _:
                key = self._key(path[1] if len(path) > 1 else None) | body
                return JSONResponse({"key": key, "secret": "td_another"}, 201)
            case _:
                return JSONResponse({"key": self._key("acme") | {"id": path[1], "revoked_micros": 1}})

    def _key(self, tenant: str | None) -> dict[str, Any]:
        return {
            "id": "k1",
            "tenant": tenant,
            "prefix": "td_abcd",
            "label": "first",
            "created_micros": 1_795_000_000_000_000,
            "revoked_micros": None,
            "scopes": ["run", "read"] if tenant else ["admin"],
            "expires_micros": None,
            "last_used_micros": None,
            "replaced_by": None,
        }

    def _status(self) -> dict[str, Any]:
        counts = {"running": 1, "paused": 3, "waiting": 2, "usage": 12.34}
        return {
            "version": "0.2.0",
            "pid": 1,
            "uptime_s": 200.0,
            "socket": str(self.socket),
            "state_dir": "/state",
            "state": self.readiness[0]["status"],
            "progress": self.readiness[0]["progress"],
            "reason": self.readiness[0]["reason"],
            "engine": msgspec.to_builtins(self.engine),
            "engine_restarts": 0,
            "running": 1,
            "paused": 3,
            "waiting": 2,
            "queue": self.queue,
            "ledger": {"healthy": True, "trouble": "", "wal_bytes": 0, "requests_paused": False, "anchor": self.anchor},
            "tenants": [
                {**tenant, **counts, "max_queued": tenant["effective_limits"]["max_queued"]}
                for tenant in self.tenants.values()
            ],
        }
