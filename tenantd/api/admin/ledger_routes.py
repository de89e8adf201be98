"""Administration of the ledger's file, as far as the daemon has to do it."""

from __future__ import annotations

from typing import Protocol
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.admin import types
from tenantd.api.body import B
from tenantd.api.identity import actor_of
from tenantd.api.operations import Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.ledger.row_pruning import PrunedRows
from tenantd.serving.service import Service
from tenantd.tenancy.pruning import prune_requests


class _Parse(Protocol):
    async def __call__(self, request: Request, model: type[B]) -> B:
        """Raises InvalidRequest."""


def ledger_operations(service: Service, parse: _Parse) -> list[Operation]:
    """`parse` reads and checks the body of a request."""

    async def prune_ledger(request: Request) -> Response:
        """Delete the rows of requests that ended before a month; only months that are over can be pruned. Hourly sums,
        finalised invoices and the audit trail stay. If the client leaves, the next pruning finishes it.
        """
        body = await parse(request, types.RequestPruning)
        timezone = ZoneInfo(service.config.billing.timezone)
        work = prune_requests(service.ledger, service.events, actor_of(request.scope), body.before, timezone)
        return reply(await while_connected(request, work))

    return [Operation("POST", "/admin/v1/ledger/prune", prune_ledger, PrunedRows, types.RequestPruning)]
