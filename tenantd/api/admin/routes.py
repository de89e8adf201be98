"""Administration: tenants, keys, usage, invoices. Only for root, the daemon's own user, members of
server.admin_group, and keys with the scope admin.

Routes parse, call a use case and render: `tenantd.tenancy.administration` has what changes tenants and keys, and
`tenantd.tenancy.reporting` the reports.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from tenantd import __version__, clock
from tenantd.api.admin import types
from tenantd.api.admin.alert_routes import alert_operations
from tenantd.api.admin.audit_routes import AuditTrail
from tenantd.api.admin.budget_routes import BudgetRoutes
from tenantd.api.admin.examination import examination_operations
from tenantd.api.admin.figure_routes import FigureRoutes
from tenantd.api.admin.invoice_routes import invoice_operations
from tenantd.api.admin.ledger_routes import ledger_operations
from tenantd.api.admin.live_routes import live_operations
from tenantd.api.admin.parameters import whole_number
from tenantd.api.admin.price_routes import PriceRoutes
from tenantd.api.admin.request_routes import RequestRoutes
from tenantd.api.body import B, parse, read_body
from tenantd.api.identity import actor_of, require_live_key
from tenantd.api.openai.prompts import INLINE_BYTES
from tenantd.api.operations import Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.domain import BillingDetails, Tenant
from tenantd.errors import InvalidRequest
from tenantd.ledger.findings import Finding
from tenantd.ledger.invoices import Month, parse_month
from tenantd.request_ids import new_request_id
from tenantd.serving.service import Service
from tenantd.tenancy.administration import Administration, Change
from tenantd.tenancy.budget_administration import BudgetAdministration
from tenantd.tenancy.reporting import Reporting
from tenantd.text.pool import ADMINISTRATORS
from tenantd.watching.metrics import Meter
from tenantd.watching.scores import explain
from tenantd.watching.webhook import Webhook

MOST_LISTED = 10_000


class Admin:
    """The route handlers of /admin/v1 and /metrics, and their shared state."""

    def __init__(self, service: Service, meter: Meter, webhook: Webhook) -> None:
        self._service = service
        self._administration: Administration = service.administration
        self._reporting = Reporting(service.ledger)
        self._audit_trail = AuditTrail(service, self._administration, self._reporting, self._parse)
        self._prices = PriceRoutes(service, self._parse)
        self._figures = FigureRoutes(service, self._reporting, meter)
        budgets = BudgetAdministration(
            service.ledger, service.changes, service.events, records=service.config.security.is_audited
        )
        self._budgets = BudgetRoutes(
            budgets, self._parse, lambda number: service.budgets.reserved(number), lambda: service.config.billing
        )
        self._webhook = webhook
        self._meter = meter
        self._began_s = time.monotonic()

    def operations(self) -> list[Operation]:
        tenants, tenant = "/admin/v1/tenants", "/admin/v1/tenants/{name}"
        keys = "/admin/v1/keys"
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
            Operation("POST", f"{tenant}/rename", self.rename, types.OneTenant, types.NewName),
            Operation("POST", f"{tenant}/anomalies/clear", self.clear_anomalies, types.ClearedAnomalies),
            Operation("GET", f"{tenant}/keys", self.list_keys, types.Keys),
            Operation("POST", f"{tenant}/keys", self.create_key, types.CreatedKey, types.NewKey, 201),
            Operation("GET", keys, self.list_admin_keys, types.Keys),
            Operation("POST", keys, self.create_admin_key, types.CreatedKey, types.NewAdminKey, 201),
            Operation("DELETE", f"{keys}/{{key_id}}", self.revoke_key, types.OneKey),
            Operation("POST", f"{keys}/{{key_id}}/rotate", self.rotate_key, types.RotatedKey, types.KeyRotation, 201),
            Operation("GET", "/admin/v1/anomalies", self.anomalies, types.Anomalies),
            *self._figures.operations(),
            *RequestRoutes(self._service, self._administration, self._reporting).operations(),
            *invoice_operations(self._service, self._parse, self._month),
            *self._prices.operations(),
            *self._budgets.operations(),
            *alert_operations(self._webhook),
            *live_operations(self._service),
            *self._audit_trail.operations(),
            *ledger_operations(self._service, self._parse),
            *examination_operations(self._service),
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
        names = {tenant.id: tenant.name for tenant in self._service.directory.tenants.values()}
        states = self._service.budgets.states()
        budgets = [(names[one.budget.tenant_id], one) for one in states if one.budget.tenant_id in names]
        render = functools.partial(self._meter.render, self._service.status(), budgets)
        return Response(await self._service.pool.run(ADMINISTRATORS, render), headers=headers)

    # -- tenants

    async def list_tenants(self) -> Response:
        """List the tenants, without the texts of their system prompts."""
        tenants = await self._administration.list_tenants()
        in_force = self._service.directory.in_force

        def render() -> Response:
            return reply({"tenants": [types.listed(in_force(tenant)) for tenant in tenants]})

        return await self._service.pool.run(ADMINISTRATORS, render)  # with many tenants it takes a while

    async def add_tenant(self, request: Request) -> Response:
        """Add a tenant, with its first key."""
        body = await self._parse(request, types.NewTenant)
        tenant = Tenant(
            name=body.name,
            weight=body.weight,
            priority=body.priority,
            uids=tuple(body.uids),
            adapter=body.adapter,
            unbilled=body.unbilled,
            allow_special=body.allow_special,
            on_anomaly=body.on_anomaly,
            cache=body.cache,
            system_prompt=body.system_prompt,
            system_in_completions=body.system_in_completions,
            billing=BillingDetails(**body.billing.given()),
            own_limits=body.own_limits(),
        )
        change, secret = await self._administration.add_tenant(actor_of(request.scope), tenant)
        return self._changed(change, 201, key=secret)

    async def show_tenant(self, name: str) -> Response:
        """Show a tenant."""
        tenant = await self._administration.get_tenant(name)
        return reply({"tenant": self._service.directory.in_force(tenant)})

    async def change_tenant(self, request: Request, name: str) -> Response:
        """Change the fields in the body; takes effect with the next request."""
        body = await self._parse(request, types.TenantChange)
        limits = {} if body.limits is None else body.limits.given()
        actor = actor_of(request.scope)
        return self._changed(await self._administration.change_tenant(actor, name, body.changes(), limits))

    async def suspend(self, request: Request, name: str) -> Response:
        """Refuse new requests of a tenant."""
        return self._changed(await self._administration.suspend(actor_of(request.scope), name))

    async def resume(self, request: Request, name: str) -> Response:
        """Let a suspended tenant send requests again."""
        return self._changed(await self._administration.resume(actor_of(request.scope), name))

    async def clear_anomalies(self, request: Request, name: str) -> Response:
        """Mark the anomalies of a tenant as harmless: end its throttling, and count what it does next as normal."""
        change, cleared = await self._administration.clear_anomalies(actor_of(request.scope), name)
        return self._changed(change, cleared=cleared)

    async def rename(self, request: Request, name: str) -> Response:
        """Rename a suspended tenant that has no requests. Invoices show its name at its last request of the month."""
        body = await self._parse(request, types.NewName)
        return self._changed(await self._administration.rename(actor_of(request.scope), name, body.name))

    async def remove_tenant(self, request: Request, name: str) -> Response:
        """Remove a tenant; its requests stay in reports and invoices."""
        await self._administration.remove(actor_of(request.scope), name)
        return reply({"removed": name})

    # -- keys

    async def list_keys(self, name: str) -> Response:
        """List a tenant's keys, without their secrets."""
        return reply({"keys": await self._administration.list_keys(name)})

    async def create_key(self, request: Request, name: str) -> Response:
        """Create a key. Its secret is shown only here."""
        body = await self._parse(request, types.NewKey)
        ends_micros = body.ends_micros(self._now_micros())
        change, secret = await self._administration.create_key(
            actor_of(request.scope), name, body.label, scopes=body.scopes, expires_micros=ends_micros
        )
        return reply({"key": change.after, "secret": secret}, status=201)

    async def list_admin_keys(self) -> Response:
        """List the administrator keys, without their secrets."""
        return reply({"keys": await self._administration.list_keys(None)})

    async def create_admin_key(self, request: Request) -> Response:
        """Create an administrator key, which belongs to no tenant. Its secret is shown only here."""
        body = await self._parse(request, types.NewAdminKey)
        change, secret = await self._administration.create_key(
            actor_of(request.scope), None, body.label, expires_micros=body.ends_micros(self._now_micros())
        )
        return reply({"key": change.after, "secret": secret}, status=201)

    async def rotate_key(self, request: Request, key_id: str) -> Response:
        """Replace a key with a new one that has the same rights; the old one ends after a grace period."""
        body = await self._parse(request, types.KeyRotation)
        old, new, secret = await self._administration.rotate_key(
            actor_of(request.scope),
            key_id,
            body.grace_s * 1_000_000,
            expires_micros=body.ends_micros(self._now_micros()),
        )
        return reply({"key": new.after, "secret": secret, "replaced": old.after}, status=201)

    async def revoke_key(self, request: Request, key_id: str) -> Response:
        """Revoke a key, effective immediately."""
        change = await self._administration.revoke_key(actor_of(request.scope), key_id)
        return reply({"key": change.after})

    # -- reports

    async def anomalies(self, tenant: str | None = None, since: str | None = None, limit: str = "50") -> Response:
        """List the newest anomalies, since a time in microseconds since 1970."""
        since_micros = 0 if since is None else whole_number("since", since)
        found = await self._reporting.anomalies(tenant, since_micros, _most(limit))
        return reply({"anomalies": [_anomaly(one) for one in found]})

    # -- shared

    async def _parse(self, request: Request, model: type[B]) -> B:
        body = await read_body(request, self._service.config.server.max_body_bytes)
        require_live_key(request.scope, self._service.directory)
        if len(body) <= INLINE_BYTES:
            return parse(model, body)
        work = self._service.pool.run(ADMINISTRATORS, functools.partial(parse, model, body), len(body))
        return await while_connected(request, work)

    def _changed(self, change: Change[Tenant], status: int = 200, **more: str | int) -> Response:
        assert change.after is not None, "it is there"
        return reply({"tenant": self._service.directory.in_force(change.after), **more}, status=status)

    def _month(self, text: str) -> Month:
        return parse_month(text, ZoneInfo(self._service.config.billing.timezone), self._now_micros())

    @staticmethod
    def _now_micros() -> int:
        return clock.now_micros()


def _anomaly(found: Finding) -> dict[str, Any]:
    return {**msgspec.structs.asdict(found), "reasons": explain(found.deviations)}


def _most(limit: str) -> int:
    most = whole_number("limit", limit)
    if not 1 <= most <= MOST_LISTED:
        raise InvalidRequest(f"limit: must be from 1 to {MOST_LISTED}", param="limit")
    return most
