"""Administration of the audit trail: read, follow, prune; and forget a tenant."""

from __future__ import annotations

import difflib
import functools
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.admin import types
from tenantd.api.admin.parameters import whole_number
from tenantd.api.body import B
from tenantd.api.identity import actor_of
from tenantd.api.operations import Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.domain import Tenant
from tenantd.errors import InvalidRequest
from tenantd.ledger import audit
from tenantd.ledger.trail import MOST_ENTRIES_READ, Wanted
from tenantd.request_ids import digits_in, request_id_in
from tenantd.serving.matching import possible_prompts
from tenantd.serving.service import Service
from tenantd.tenancy.administration import Administration
from tenantd.tenancy.pruning import prune_audit
from tenantd.tenancy.recorded import ADMINISTERED, ENTERED, RESPONSE
from tenantd.tenancy.reporting import Matches, Reporting
from tenantd.text.excerpt import excerpt
from tenantd.text.pool import ADMINISTRATORS
from tenantd.watching.recorder import RECORDED

EVENTS: Final = frozenset(
    {
        audit.BEGUN,
        audit.SWITCHED_OFF,
        audit.SWITCHED_ON,
        audit.CONTINUED,
        audit.MISSED,
        audit.PRUNED,
        audit.DAMAGED,
        audit.RENEWED,
        audit.RESTORED,
        audit.INTERRUPTED,
        audit.SETTLED_LATE,
        audit.UNDESCRIBED,
        ADMINISTERED,
        ENTERED,
        RESPONSE,
        *RECORDED,
    }
)
"""Everything that is recorded."""


class Parse(Protocol):
    """Reads and checks the body of a request."""

    async def __call__(self, request: Request, model: type[B]) -> B:
        """Raises InvalidRequest."""


class AuditTrail:
    """The route handlers."""

    def __init__(self, service: Service, administration: Administration, reporting: Reporting, parse: Parse) -> None:
        """`parse` reads and checks the body of a request."""
        self._service = service
        self._parse = parse
        self._administration = administration
        self._reporting = reporting

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/admin/v1/audit", self.read, types.AuditPage),
            Operation("POST", "/admin/v1/audit/match", self.match, Matches, types.AuditMatch),
            Operation("POST", "/admin/v1/audit/prune", self.prune, types.PrunedAudit, types.AuditPruning),
            Operation("POST", "/admin/v1/tenants/{name}/forget", self.forget, types.ForgottenTenant),
        ]

    async def read(
        self,
        tenant: str | None = None,
        since: str | None = None,
        until: str | None = None,
        event: str | None = None,
        request: str | None = None,
        after: str | None = None,
        before: str | None = None,
        id: str | None = None,
        limit: str = "100",
    ) -> Response:
        """Read the audit trail, newest entries first; with `after`, those after that number, oldest first.

        `since` and `until` are microseconds since 1970. `id` chooses a removed `tenant` whose name was used again.
        `request` is a request's id, an answer's id, or 8 or more digits of the start or end of one.

        To get more, pass `next` as `after` if this request has
        `after`, otherwise as `before`; null is the end. To follow the trail, pass `head` as `after`.
        """
        if after is not None and before is not None:
            raise InvalidRequest("use either after or before, not both", param="after")
        most = whole_number("limit", limit)
        if not 1 <= most <= MOST_ENTRIES_READ:
            raise InvalidRequest(f"limit: must be from 1 to {MOST_ENTRIES_READ}", param="limit")
        if id is not None and tenant is None:
            raise InvalidRequest("id: needs tenant, the name that it has or had", param="id")
        request_id, request_part = _request_id(request)
        wanted = Wanted(
            event=_event(event),
            request_id=request_id,
            request_part=request_part,
            since_micros=None if since is None else whole_number("since", since),
            until_micros=None if until is None else whole_number("until", until),
        )
        found, head = await self._reporting.audit(
            wanted,
            tenant,
            None if id is None else whole_number("id", id),
            limit=most,
            after=None if after is None else whole_number("after", after),
            before=None if before is None else whole_number("before", before),
        )
        return reply({**msgspec.structs.asdict(found), "head": head})

    async def match(self, request: Request) -> Response:
        """Find requests of a tenant by their prompt or by their answer.

        A prompt is tried as a plain prompt and as a chat of one message, with the tenant's current system prompt and
        without one. A text must be the whole answer.
        """
        body = await self._parse(request, types.AuditMatch)
        if bool(body.prompts) == bool(body.responses):
            raise InvalidRequest("use either prompts or responses", param="prompts")
        tenant = self._service.directory.tenants.get(body.tenant) or Tenant(name=body.tenant)
        work = functools.partial(possible_prompts, self._service.chat, tenant, body.prompts)
        size_bytes = sum(map(len, body.prompts))
        prompts = await while_connected(request, self._service.pool.run(ADMINISTRATORS, work, size_bytes))
        wanted = Wanted(since_micros=body.since_micros, until_micros=body.until_micros)
        found = self._reporting.matches(wanted, body.tenant, body.id, prompts, body.responses)
        return reply(await while_connected(request, found))

    async def prune(self, request: Request) -> Response:
        """Delete entries from before a time, except those of months that are not over. They are verified as they go."""
        config = self._service.config
        body = await self._parse(request, types.AuditPruning)
        timezone = ZoneInfo(config.billing.timezone)
        actor, events = actor_of(request.scope), self._service.events
        work = prune_audit(self._service.ledger, events, actor, body.before_micros, timezone)
        return reply(await while_connected(request, work))

    async def forget(self, request: Request, name: str, id: str | None = None) -> Response:
        """Delete the key of a tenant's hashes in the audit trail, so that they can no longer be matched.

        Also works for a removed tenant. If several have or had the name, choose one with `id`. A tenant that was not
        removed gets a new key.
        """
        number = None if id is None else whole_number("id", id)
        return reply(await self._administration.forget(actor_of(request.scope), name, number))


def _event(name: str | None) -> str | None:
    """Raises InvalidRequest for an event that is never recorded: a typo would look like a quiet trail."""
    if name is not None and name not in EVENTS:
        near = difflib.get_close_matches(name[:40], sorted(EVENTS), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise InvalidRequest(
            f"event: must be one of {', '.join(sorted(EVENTS))} (got {excerpt(name, 40)}){meant}", param="event"
        )
    return name


def _request_id(text: str | None) -> tuple[str | None, str | None]:
    """A request's id, or the digits at an end of one. Raises InvalidRequest."""
    if text is None:
        return None, None
    found, part = request_id_in(text), digits_in(text)
    if found is None and part is None:
        raise InvalidRequest(
            "request: must be the id of a request or of an answer, or at least 8 digits of its start or end "
            f"(got {excerpt(text, 80)})",
            param="request",
        )
    return found, part
