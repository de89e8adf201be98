"""What tenants ask of their own: usage, limits, requests, invoices; and cancelling a request.

The tenant follows from the identity, as everywhere below /v1. A suspended tenant may still look.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Final
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response

from tenantd import clock
from tenantd.api.admin.parameters import (
    LIVE_STATES,
    STATES,
    check_hours,
    created_between,
    one_of,
    period_of,
    whole_number,
)
from tenantd.api.health import readiness
from tenantd.api.identity import actor_of, is_admin, own_tenants, tenant_of
from tenantd.api.operations import Access, Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.api.tenant import types
from tenantd.domain import RUNNING, Scope
from tenantd.errors import InvalidRequest, NotFound
from tenantd.ledger.grouped import Grouping
from tenantd.ledger.invoices import parse_month
from tenantd.ledger.paperwork import Paperwork
from tenantd.ledger.selection import WantedRequests
from tenantd.request_ids import request_id_in
from tenantd.serving.last_hour import INTERVAL_S, as_lists
from tenantd.serving.service import Service
from tenantd.tenancy.own_reports import OwnReports

MOST_LISTED: Final = 200


class TenantsOwn:
    """The routes and what they share."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reports = OwnReports(service.ledger)

    def operations(self) -> list[Operation]:
        own = functools.partial(Operation, access=Access.TENANT, scopes=(Scope.RUN, Scope.READ))
        requests = "/v1/requests"
        one = f"{requests}/{{request_id}}"
        return [
            own("GET", "/v1/identity", self.identity, types.Identity, access=Access.KNOWN),
            own("GET", "/v1/usage", self.own_usage, types.OwnUsage),
            own("GET", "/v1/usage/{by}", self.own_usage_by, types.OwnGroupedUsage),
            own("GET", "/v1/limits", self.own_limits, types.OwnLimits),
            own("GET", "/v1/live", self.own_live, types.OwnLive),
            own("GET", "/v1/history", self.own_history, types.OwnHistory),
            own("GET", requests, self.own_requests, types.OwnRequestPage),
            own("GET", one, self.own_request, types.OneOwnRequest),
            own("POST", f"{one}/cancel", self.cancel_own, types.CancelledOwnRequest, scopes=(Scope.RUN,)),
            own("GET", "/v1/invoices/{month}", self.own_invoice, types.OwnInvoice),
        ]

    async def identity(self, request: Request) -> Response:
        """Show who is asking."""
        names = sorted(tenant.name for tenant in own_tenants(request, self._service.directory))
        return reply({"administers": is_admin(request), "tenants": names})

    async def own_usage(
        self, request: Request, month: str | None = None, since: str | None = None, until: str | None = None
    ) -> Response:
        """Report the tenant's own usage in a month or a period. `since` and `until` are microseconds since 1970, or
        dates or dates with a time (2026-11-29T14:30) in the billing time zone."""
        billing = self._service.config.billing
        since_micros, until_micros = period_of(billing, month, since, until)
        work = self._reports.usage(_id_of(request), since_micros, until_micros)
        total = types.own_total(await while_connected(request, work))
        period = {"since_micros": since_micros, "until_micros": until_micros, "timezone": billing.timezone}
        return reply({**period, "currency": billing.currency, "total": total})

    async def own_usage_by(
        self, request: Request, by: str, month: str | None = None, since: str | None = None, until: str | None = None
    ) -> Response:
        """Report the tenant's own usage by day, hour, key or model.

        Only requests that have ended count. The period is given as for /v1/usage; by hour, it can be at most 100 days,
        or 32 if the billing time zone is not whole hours from UTC.
        """
        billing = self._service.config.billing
        grouping = Grouping(one_of("by", by, types.GROUPINGS))
        since_micros, until_micros = period_of(billing, month, since, until)
        check_hours(grouping, since_micros, until_micros)
        work = self._reports.usage_by(_id_of(request), grouping, since_micros, until_micros)
        groups = [types.own_group(group) for group in await while_connected(request, work)]
        period = {"since_micros": since_micros, "until_micros": until_micros, "timezone": billing.timezone}
        return reply({**period, "currency": billing.currency, "by": grouping, "groups": groups})

    async def own_limits(self, request: Request) -> Response:
        """Show the limits in force for the tenant, and what is left of them."""
        tenant = tenant_of(request)
        count, rates = self._service.own.count(tenant.name), self._service.rates(tenant)
        budgets = self._service.budgets.states(tenant.id, actor_of(request.scope).key_id)
        return reply(
            {
                "tenant": tenant.name,
                "state": tenant.state,
                "limits": dataclasses.asdict(tenant.limits),
                "rates": {
                    what: rate._asdict() if (rate := rates.get(what)) else None for what in ("requests", "tokens")
                },
                "budgets": [types.own_budget(state) for state in budgets],
                "running": count.running,
                "waiting": count.waiting,
            }
        )

    async def own_live(self, request: Request) -> Response:
        """Show what the tenant's requests are doing now, and what they have been given since the daemon started."""
        tenant, now = tenant_of(request), readiness(self._service)
        counts = self._service.moment.own(tenant, actor_of(request.scope).key_id)
        return reply(
            {
                "state": now["status"],
                "progress": now.get("progress", 1.0),
                "tenant": types.live_counts(counts),
                "requests": self._service.moment.requests(tenant.name),
            }
        )

    async def own_history(self, request: Request, since: str = "0") -> Response:
        """Show what the tenant was given, every few seconds, in the last hour or after `since` (microseconds since
        1970)."""
        ended_micros, samples = self._service.last_hour.own(_id_of(request), whole_number("since", since))
        lists = as_lists(samples, of_all=False)
        return reply({"interval_s": INTERVAL_S, "ended_micros": ended_micros, **lists})

    async def own_requests(
        self,
        request: Request,
        limit: str = "50",
        after: str | None = None,
        since: str | None = None,
        until: str | None = None,
        state: str | None = None,
        key: str | None = None,
    ) -> Response:
        """List the tenant's own requests, newest first; with `after`, those older than the request with this id.

        `since` and `until` (exclusive) limit when they were created: microseconds since 1970, or dates or dates with a
        time (2026-11-29T14:30) in the billing time zone. `state` is how they ended, or for live ones waiting, running
        or paused. `key` is the id of the key they were sent with, or 4 or more characters of its start or end.
        """
        most, tenant_id = whole_number("limit", limit), _id_of(request)
        if not 1 <= most <= MOST_LISTED:
            raise InvalidRequest(f"limit: must be from 1 to {MOST_LISTED}", param="limit")
        after_id = None if after is None else _request_id(after, "after")
        since_micros, until_micros = created_between(self._service.config.billing, since, until)
        is_live = state is not None and one_of("state", state, STATES) in LIVE_STATES
        live = self._service.own.all_states(tenant_id) if is_live else {}
        wanted = WantedRequests(
            key_id=key,
            state=RUNNING if is_live else state,
            since_micros=since_micros,
            until_micros=until_micros,
            ids=[each for each, now in live.items() if now == state] if is_live else None,
        )
        found = await while_connected(request, self._reports.requests(tenant_id, wanted, most, after_id))
        states = live or self._service.own.states(tenant_id, (r.id for r in found.requests if r.state == RUNNING))
        requests = [types.own_request(row, states.get(row.id)) for row in found.requests]
        return reply({"requests": requests, "next": found.next})

    async def own_request(self, request: Request, request_id: str) -> Response:
        """Show one of the tenant's own requests, by its id or the id of its answer; a recent one also by 8 or more
        digits of the start or end of its id."""
        tenant_id = _id_of(request)
        row = await while_connected(request, self._reports.request(tenant_id, request_id))
        state = self._service.own.states(tenant_id, [row.id]).get(row.id)
        return reply({"request": types.own_request(row, state)})

    async def cancel_own(self, request: Request, request_id: str) -> Response:
        """Cancel one of the tenant's own requests, by its id or the id of its answer. What was generated is billed."""
        found_id = _request_id(request_id)
        self._service.own.cancel(_id_of(request), found_id)
        return reply({"cancelled": found_id})

    async def own_invoice(self, request: Request, month: str) -> Response:
        """Show the tenant's own invoice of a month: YYYY-MM, this or last."""
        billing = self._service.config.billing
        asked = parse_month(month, ZoneInfo(billing.timezone), now_micros := clock.now_micros())
        if asked.since_micros > now_micros:
            raise InvalidRequest(f"{asked.name} has not started, so it has no invoice yet", param="month")
        work = self._reports.invoice(_id_of(request), asked, Paperwork.of(billing))
        return reply(types.own_invoice(await while_connected(request, work)))


def _id_of(request: Request) -> int:
    number = tenant_of(request).id
    assert number is not None, "it is in the ledger"
    return number


def _request_id(text: str, param: str | None = None) -> str:
    """The request id for the id of a request or of an answer. Raises NotFound for anything else."""
    if (found := request_id_in(text)) is None:
        raise NotFound("this tenant has no request with this id", param=param)
    return found
