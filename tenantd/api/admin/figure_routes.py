"""What was used, how fast, and who had which share: for administrators."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tenantd import clock
from tenantd.api.admin.figure_types import GroupedUsage, History, Stats, UsageReport
from tenantd.api.admin.parameters import check_hours, one_of, period_of, whole_number, window_micros
from tenantd.api.operations import Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.costs import of_request
from tenantd.ledger.grouped import Grouping
from tenantd.ledger.window import TenantFigures, WindowFigures
from tenantd.serving.last_hour import INTERVAL_S, as_lists
from tenantd.serving.service import Service
from tenantd.tenancy.reporting import Reporting
from tenantd.text.pool import ADMINISTRATORS
from tenantd.watching.metrics import Meter

T = TypeVar("T")
DEFAULT_WINDOW = "1h"


class FigureRoutes:
    """The route handlers."""

    def __init__(self, service: Service, reporting: Reporting, meter: Meter) -> None:
        self._service = service
        self._reporting = reporting
        self._meter = meter

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/admin/v1/usage", self.usage, UsageReport),
            Operation("GET", "/admin/v1/usage/{by}", self.usage_by, GroupedUsage),
            Operation("GET", "/admin/v1/stats", self.stats, Stats),
            Operation("GET", "/admin/v1/history", self.history, History),
        ]

    async def usage(
        self,
        request: Request,
        tenant: str | None = None,
        month: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> Response:
        """Report usage in a month or a period. `since` and `until` are microseconds since 1970, or
        dates or dates with a time (2026-11-29T14:30) in the billing time zone."""
        since_micros, until_micros = period_of(self._service.config.billing, month, since, until)
        rows = await while_connected(request, self._reporting.usage(since_micros, until_micros, tenant))
        return await self._reply(since_micros, until_micros, tenants=rows)

    async def usage_by(
        self,
        request: Request,
        by: str,
        tenant: str | None = None,
        month: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> Response:
        """Report usage of a period by day, hour, tenant, key, model or adapter.

        Only requests that have ended count. The period is given as for /admin/v1/usage; by hour, it can be at most 100
        days, or 32 if the billing time zone is not whole hours from UTC.
        """
        grouping = Grouping(one_of("by", by, Grouping))
        since_micros, until_micros = period_of(self._service.config.billing, month, since, until)
        check_hours(grouping, since_micros, until_micros)
        groups = await while_connected(request, self._reporting.usage_by(grouping, since_micros, until_micros, tenant))
        return await self._reply(since_micros, until_micros, by=grouping, groups=groups)

    async def stats(
        self,
        request: Request,
        tenant: str | None = None,
        window: str | None = None,
        month: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> Response:
        """Show each tenant's figures over the last hour, a window such as 90s, 24h or 7d, or a period.

        The period is given as for /admin/v1/usage.
        """
        now_micros = clock.now_micros()
        if month is since is until is None:
            since_micros, until_micros = now_micros - window_micros(window or DEFAULT_WINDOW), now_micros
        else:
            since_micros, until_micros = period_of(self._service.config.billing, month, since, until, window=window)
        since_micros, until_micros = max(0, since_micros), min(until_micros, now_micros)
        service = partial(of_request, self._service.config.scheduler)
        found: WindowFigures = await while_connected(
            request, self._reporting.figures(since_micros, until_micros, tenant, service)
        )
        live = {each["name"]: each for each in self._service.status()["tenants"]}
        tenants = [self._standing(each, live.get(each.tenant, {})) for each in found.tenants]
        more = {name: getattr(found, name) for name in ("is_exact", "total", "evenness")}
        return await self._reply(since_micros, until_micros, **more, tenants=tenants)

    async def history(self, since: str = "0") -> Response:
        """Show what tenants were given, every few seconds, in the last hour or after `since` (microseconds since
        1970): of the tenants that had work in that hour, the 12 that were given most."""
        last_hour = self._service.last_hour
        found = last_hour.of_all(whole_number("since", since))
        names = {tenant.id: tenant.name for tenant in self._service.directory.tenants.values()}

        def render() -> Response:
            tenants = [
                {
                    "tenant": names[number],
                    "share": last_hour.shares(samples, found.costs),
                    **as_lists(samples, of_all=True),
                }
                for number, samples in found.tenants.items()
                if number in names
            ]
            return reply({"interval_s": INTERVAL_S, "ended_micros": found.ended_micros, "tenants": tenants})

        return await self._service.pool.run(ADMINISTRATORS, render)

    def _standing(self, figures: TenantFigures, live: dict[str, Any]) -> dict[str, Any]:
        """A `ListedFigures`."""
        tenant = None if figures.is_removed else self._service.directory.tenants.get(figures.tenant)
        rates = {} if tenant is None else self._service.rates(tenant)
        used = {what: state.limit - state.remaining for what, state in rates.items()}
        return {
            **msgspec.structs.asdict(figures),
            **{name: 0 if tenant is None else live.get(name, 0) for name in ("running", "paused", "waiting")},
            "limits": None if tenant is None else tenant.limits,
            "requests_last_minute": used.get("requests"),
            "tokens_last_minute": used.get("tokens"),
            "refused": {} if tenant is None else self._meter.refusals(tenant.name),
        }

    async def _reply(self, since_micros: int, until_micros: int, **more: Any) -> Response:
        """Encoded in a thread, because there may be many rows."""
        billing = self._service.config.billing
        period = {"since_micros": since_micros, "until_micros": until_micros, "timezone": billing.timezone}
        content = {**period, "currency": billing.currency, **more}
        return await self._service.pool.run(ADMINISTRATORS, partial(reply, content))
