"""Administration over the socket: tenants, keys, usage, invoices. Only for root and the daemon's own user.

Each change of tenants or keys is one transaction in the ledger's writer. The directory is reloaded before the answer is
sent, so the change applies to every later request.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from fastapi import Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from tenantd import __version__, clock
from tenantd.api.admin import types
from tenantd.api.body import B, parse, read_body
from tenantd.api.openai.prompts import INLINE_BYTES
from tenantd.api.operations import Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.domain import Tenant, TenantState
from tenantd.errors import InvalidRequest, NotFound
from tenantd.ledger.invoices import Invoice, Month, invoice, parse_month
from tenantd.ledger.ledger import Lane
from tenantd.ledger.reports import recent_requests, usage_report
from tenantd.llamacpp.gguf import NotGguf, check_adapter
from tenantd.request_ids import new_request_id, request_id_in
from tenantd.serving.service import Service
from tenantd.tenancy import keys
from tenantd.tenancy import tenants as store
from tenantd.text.excerpt import excerpt
from tenantd.watching.metrics import Meter

T = TypeVar("T")
MOST_REQUESTS_LISTED = 10_000
ADMINISTRATORS = "(administrators)"
"""Takes the administrators' turn in the text pool. No tenant can have this name."""


class Admin:
    """The route handlers of /admin/v1 and /metrics, and their shared state."""

    def __init__(self, service: Service, meter: Meter) -> None:
        self._service = service
        self._meter = meter
        self._began_s = time.monotonic()

    def operations(self) -> list[Operation]:
        tenants, tenant, requests = "/admin/v1/tenants", "/admin/v1/tenants/{name}", "/admin/v1/requests"
        return [
            Operation("GET", "/admin", self.index, types.Index),
            Operation("GET", "/admin/v1/status", self.status, types.Status),
            Operation("GET", tenants, self.list_tenants, types.Tenants),
            Operation("POST", tenants, self.add_tenant, types.AddedTenant, types.NewTenant, 201),
            Operation("GET", tenant, self.show_tenant, types.OneTenant),
            Operation("PATCH", tenant, self.change_tenant, types.OneTenant, types.TenantChange),
            Operation("DELETE", tenant, self.remove_tenant, types.RemovedTenant),
            Operation("POST", f"{tenant}/suspend", self.suspend, types.OneTenant),
            Operation("POST", f"{tenant}/resume", self.resume, types.OneTenant),
            Operation("GET", f"{tenant}/keys", self.list_keys, types.Keys),
            Operation("POST", f"{tenant}/keys", self.create_key, types.CreatedKey, types.NewKey, 201),
            Operation("DELETE", "/admin/v1/keys/{key_id}", self.revoke_key, types.OneKey),
            Operation("GET", "/admin/v1/usage", self.usage, types.UsageReport),
            Operation("GET", requests, self.requests, types.Requests),
            Operation("POST", f"{requests}/{{request_id}}/cancel", self.cancel, types.CancelledRequest),
            Operation("GET", "/admin/v1/invoices/{month}", self.invoice, Invoice),
            Operation("GET", "/metrics", self.metrics, str, media_type="text/plain"),
        ]

    # -- the daemon

    async def index(self) -> Response:
        """List the routes of administration."""
        return reply({"routes": [f"{one.method} {one.path}" for one in self.operations()]})

    async def status(self) -> Response:
        """Show the state of the daemon, its engine, ledger, tenants and queue."""
        config = self._service.config
        own = {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._began_s, 3),
            "socket": str(config.socket),
            "state_dir": str(config.state_dir),
            "model": config.model_name,
            "queue": self._service.queue(),
        }
        return reply({**self._service.status(), **own})

    async def metrics(self) -> Response:
        """Render the metrics for Prometheus."""
        headers = {"x-request-id": new_request_id(), "content-type": CONTENT_TYPE_LATEST}
        render = functools.partial(self._meter.render, self._service.status())
        return Response(await self._service.pool.run(ADMINISTRATORS, render), headers=headers)

    async def cancel(self, request_id: str) -> Response:
        """End a running or waiting request, named by its id or by its answer's."""
        found = request_id_in(request_id)
        if found is None or not self._service.cancel(found):
            raise NotFound(f"no request {excerpt(request_id, 80)} is running or waiting")
        return reply({"cancelled": found})

    # -- tenants

    async def list_tenants(self) -> Response:
        """List the tenants."""
        tenants = await self._service.ledger.read(store.list_tenants)
        return reply({"tenants": [self._service.directory.in_force(tenant) for tenant in tenants]})

    async def add_tenant(self, request: Request) -> Response:
        """Add a tenant, with its first key."""
        body = await self._parse(request, types.NewTenant)
        await _check_adapter(body.adapter)
        now_micros = self._now_micros()
        tenant = Tenant(
            name=body.name,
            weight=body.weight,
            priority=body.priority,
            uids=tuple(body.uids),
            adapter=body.adapter,
            unbilled=body.unbilled,
            allow_special=body.allow_special,
            own_limits=body.own_limits(),
            created_micros=now_micros,
        )

        def add(conn: Connection) -> tuple[Tenant, str]:
            added = store.add_tenant(conn, tenant)
            if store.own_reserve(tenant):
                store.check_reserved_slots(conn, tenant.name, self._service.config.engine.slots)
            return added, keys.create_key(conn, tenant.name, "first", now_micros)[1]

        added, secret = await self._change(add)
        return reply({"tenant": self._service.directory.in_force(added), "key": secret}, status=201)

    async def show_tenant(self, name: str) -> Response:
        """Show a tenant."""
        tenant = await self._service.ledger.read(lambda conn: store.get_tenant(conn, name))
        return reply({"tenant": self._service.directory.in_force(tenant)})

    async def change_tenant(self, request: Request, name: str) -> Response:
        """Change what the body names, from the next request on."""
        body = await self._parse(request, types.TenantChange)
        await _check_adapter(body.adapter or "")

        def change(conn: Connection) -> Tenant:
            changes = body.changes()
            before = store.get_tenant(conn, name)
            if body.limits is not None:
                changes["own_limits"] = msgspec.structs.replace(before.own_limits, **body.limits.given())
            tenant = store.update_tenant(conn, name, **changes)
            if store.own_reserve(tenant) > store.own_reserve(before):
                store.check_reserved_slots(conn, name, self._service.config.engine.slots)
            return tenant

        return reply({"tenant": self._service.directory.in_force(await self._change(change))})

    async def suspend(self, name: str) -> Response:
        """Refuse new requests of a tenant."""
        return await self._set_state(name, TenantState.SUSPENDED)

    async def resume(self, name: str) -> Response:
        """Let a suspended tenant send requests again."""
        return await self._set_state(name, TenantState.ACTIVE)

    async def remove_tenant(self, name: str) -> Response:
        """Remove a tenant; its requests stay in reports and invoices."""
        await self._change(lambda conn: store.remove_tenant(conn, name))
        return reply({"removed": name})

    # -- keys

    async def list_keys(self, name: str) -> Response:
        """List a tenant's keys, without their secrets."""

        def read(conn: Connection) -> list[keys.KeyInfo]:
            return keys.list_keys(conn, store.get_tenant(conn, name).id)

        return reply({"keys": await self._service.ledger.read(read)})

    async def create_key(self, request: Request, name: str) -> Response:
        """Create a key. Its secret is shown only here."""
        body = await self._parse(request, types.NewKey)
        now_micros = self._now_micros()
        info, secret = await self._change(lambda conn: keys.create_key(conn, name, body.label, now_micros))
        return reply({"key": info, "secret": secret}, status=201)

    async def revoke_key(self, key_id: str) -> Response:
        """Revoke a key, effective immediately."""
        now_micros = self._now_micros()
        key = await self._service.ledger.write(lambda conn: keys.revoke_key(conn, key_id, now_micros))
        self._service.key_revoked(key_id)  # at once: it needs no reading, which may have to wait
        return reply({"key": key})

    # -- reports

    async def usage(
        self,
        request: Request,
        tenant: str | None = None,
        month: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> Response:
        """Report usage of a month, or of a period in microseconds since 1970."""
        since_micros, until_micros = self._period(month, since, until)
        rows = await self._report(
            request, lambda conn: usage_report(conn, since_micros, until_micros, _meant(conn, tenant))
        )
        currency = self._service.config.billing.currency
        period = {"since_micros": since_micros, "until_micros": until_micros}
        return reply({**period, "currency": currency, "tenants": rows})

    async def requests(self, tenant: str | None = None, limit: str = "50") -> Response:
        """List the newest requests."""
        most = _whole_number("limit", limit)
        if not 1 <= most <= MOST_REQUESTS_LISTED:
            raise InvalidRequest(f"limit: must be from 1 to {MOST_REQUESTS_LISTED}", param="limit")
        records = await self._service.ledger.read(lambda conn: _records(conn, tenant, most))
        states = self._service.live_states()
        return reply({"requests": [{**record, "live_state": states.get(record["id"])} for record in records]})

    async def invoice(self, month: str, tenant: str | None = None) -> Response:
        """Show the invoice of a month: YYYY-MM, this or last."""
        parsed = self._month(month)
        if parsed.since_micros > self._now_micros():
            raise InvalidRequest(f"{parsed.name} has not started, so it has no invoice yet", param="month")
        found = await self._service.ledger.read(lambda conn: invoice(conn, parsed, _meant(conn, tenant)))
        return reply(found)

    # -- shared

    async def _parse(self, request: Request, model: type[B]) -> B:
        body = await read_body(request, self._service.config.server.max_body_bytes)
        if len(body) <= INLINE_BYTES:
            return parse(model, body)
        work = self._service.pool.run(ADMINISTRATORS, functools.partial(parse, model, body), len(body))
        return await while_connected(request, work)

    async def _report(self, request: Request, work: Callable[[Connection], T]) -> T:
        """Read a report that may take long, for as long as its client waits."""
        return await while_connected(request, self._service.ledger.read(work, Lane.REPORTS))

    async def _change(self, change: Callable[[Connection], T]) -> T:
        """Write a change and make it effective at once."""
        result = await self._service.ledger.write(change)
        await self._service.tenants_changed()
        self._meter.keep(self._service.directory.tenants)
        return result

    async def _set_state(self, name: str, state: TenantState) -> Response:
        tenant = await self._change(lambda conn: store.set_state(conn, name, state))
        return reply({"tenant": self._service.directory.in_force(tenant)})

    def _period(self, month: str | None, since: str | None, until: str | None) -> tuple[int, int]:
        """The period of a month, or from `since` until `until` (microseconds since 1970; default: now)."""
        if since is None and until is None:
            parsed = self._month(month or "this")
            return parsed.since_micros, parsed.until_micros
        if month is not None:
            raise InvalidRequest("use either month or since/until, not both", param="month")
        until_micros = self._now_micros() if until is None else _whole_number("until", until)
        return (0 if since is None else _whole_number("since", since)), until_micros

    def _month(self, text: str) -> Month:
        return parse_month(text, ZoneInfo(self._service.config.billing.timezone), self._now_micros())

    @staticmethod
    def _now_micros() -> int:
        return clock.now_micros()


def _meant(conn: Connection, name: str | None) -> int | None:
    return None if name is None else store.tenant_meant(conn, name)


def _records(conn: Connection, tenant: str | None, most: int) -> list[dict[str, Any]]:
    rows = recent_requests(conn, _meant(conn, tenant), most)
    return [{**msgspec.structs.asdict(row), "cost_nanos": row.cost_nanos} for row in rows]


async def _check_adapter(path: str) -> None:
    """Raises InvalidRequest for a file that cannot be one. Whether it fits the model, the engine says at the first
    request."""
    if path:
        store.check_adapter_path(path)
        try:
            await asyncio.to_thread(check_adapter, Path(path))  # a slow disk keeps nobody waiting
        except (NotGguf, ValueError) as e:  # ValueError: no path of a file
            raise InvalidRequest(f"adapter: {e}", param="adapter") from e


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidRequest(f"{name}: must be a whole number, not {text[:40]!r}", param=name)
    return int(text)
