"""Requests, for administrators: found, shown in every detail, cancelled."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.admin.parameters import LIVE_STATES, STATES, created_between, one_of, whole_number
from tenantd.api.admin.request_types import CancelledRequest, OneRequest, Requests, listed_request
from tenantd.api.identity import actor_of
from tenantd.api.operations import Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.domain import RUNNING
from tenantd.errors import Conflict, InvalidRequest, NotFound
from tenantd.ledger.selection import WantedRequests
from tenantd.request_ids import LEAST_OF_A_PART, digits_in, ids_with_part, request_id_in
from tenantd.serving.service import Service
from tenantd.tenancy.administration import Administration
from tenantd.tenancy.reporting import Reporting
from tenantd.text.excerpt import excerpt
from tenantd.text.pool import ADMINISTRATORS

MOST_LISTED: Final = 10_000


class RequestRoutes:
    """The route handlers."""

    def __init__(self, service: Service, administration: Administration, reporting: Reporting) -> None:
        self._service = service
        self._administration = administration
        self._reporting = reporting

    def operations(self) -> list[Operation]:
        requests = "/admin/v1/requests"
        one = f"{requests}/{{request_id}}"
        return [
            Operation("GET", requests, self.requests, Requests),
            Operation("GET", one, self.show_request, OneRequest),
            Operation("POST", f"{one}/cancel", self.cancel, CancelledRequest),
        ]

    async def requests(
        self,
        request: Request,
        tenant: str | None = None,
        limit: str = "50",
        since: str | None = None,
        until: str | None = None,
        state: str | None = None,
        key: str | None = None,
        after: str | None = None,
    ) -> Response:
        """List requests, newest first.

        `since` and `until` (exclusive) limit when they were created: microseconds since 1970, or dates or dates with a
        time (2026-11-29T14:30) in the billing time zone. `state` is how they ended, or for live ones waiting, running
        or paused; `key` is the id of the key they were sent with. `after` lists those older than the one with this id.
        """
        most = whole_number("limit", limit)
        if not 1 <= most <= MOST_LISTED:
            raise InvalidRequest(f"limit: must be from 1 to {MOST_LISTED}", param="limit")
        since_micros, until_micros = created_between(self._service.config.billing, since, until)
        states = self._service.live_states()
        is_live = state is not None and one_of("state", state, STATES) in LIVE_STATES
        wanted = WantedRequests(
            key_id=key,
            state=RUNNING if is_live else state,
            since_micros=since_micros,
            until_micros=until_micros,
            ids=[each for each, now in states.items() if now == state] if is_live else None,
        )
        after_id = None if after is None else _whole_id(after)
        found = await while_connected(request, self._reporting.requests(wanted, tenant, most, after_id))

        def render() -> Response:
            listed = [listed_request(row, states.get(row.id)) for row in found.requests]
            return reply({"requests": listed, "next": found.next})

        return await self._service.pool.run(ADMINISTRATORS, render)  # ten thousand take a while

    async def show_request(self, request: Request, request_id: str) -> Response:
        """Show everything known about a request, by its id or the id of its answer, or by 8 or more digits of the start
        or end of its id if no other request has them."""
        found = await while_connected(request, self._reporting.request(request_id))
        row = found.request
        waiting = next((entry for entry in self._service.queue() if entry["id"] == row.id), None)
        return reply(
            {
                "request": listed_request(row, self._service.live_states().get(row.id)),
                "key": found.key,
                "prices": found.prices,
                "entries": found.entries,
                "waiting": waiting,
            }
        )

    async def cancel(self, request: Request, request_id: str) -> Response:
        """Cancel a running or waiting request, by its id or the id of its answer, or by 8 or more digits of the start
        or end of its id if no other live request has them."""
        found = request_id_in(request_id) or live_id(request_id, self._service.live_states())
        self._administration.cancel_request(actor_of(request.scope), found)
        return reply({"cancelled": found})


def live_id(part: str, live: dict[str, str]) -> str:
    """The id of the only live request with these digits at either end. Raises NotFound, Conflict."""
    found = ids_with_part(part, live)
    if not found:
        advice = "" if digits_in(part) else f"; give at least {LEAST_OF_A_PART} digits of its id"
        raise NotFound(f"no request {excerpt(part, 80)} is running or waiting{advice}")
    if len(found) > 1:
        raise Conflict(f"ids of {len(found)} running or waiting requests begin or end with {part}; give more digits")
    return found[0]


def _whole_id(text: str) -> str:
    """The request id for the id of a request or of an answer. Raises NotFound for anything else."""
    if (found := request_id_in(text)) is None:
        raise NotFound(f"no request {excerpt(text, 80)}", param="after")
    return found
