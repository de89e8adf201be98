"""/healthz, for anyone, and /readyz, for anyone who can connect to the socket."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.identity import is_admin, is_known
from tenantd.api.operations import Access, Operation
from tenantd.api.replies import reply
from tenantd.printable import without_paths
from tenantd.serving.overview import CHECKING
from tenantd.serving.service import Service
from tenantd.tenancy.keys import TENANT_SCOPES


class Alive(TypedDict):
    """The daemon answers."""

    status: str


class Readiness(TypedDict):
    """`status` (ready, loading, restarting, checking, failed or draining), `progress` of loading or of a check of
    isolation (0 to 1), `reason` if not ready.

    Unknown users see only the status.
    """

    status: str
    progress: NotRequired[float]
    reason: NotRequired[str]


def readiness(service: Service) -> Readiness:
    """Whether it can serve, and if not, why."""
    supervisor = service.supervisor
    if service.draining:
        return {"status": "draining", "progress": 1.0, "reason": "the daemon is shutting down"}
    if (check := service.checking) is not None:
        return {"status": CHECKING, "progress": check.progress, "reason": check.doing}
    return {"status": str(supervisor.state), "progress": supervisor.progress, "reason": supervisor.reason}


def health_operations(service: Service) -> list[Operation]:
    """/healthz, and /readyz, which shows unknown users only the state."""

    async def healthz() -> Response:
        """Ask whether the daemon is alive."""
        return reply(Alive(status="ok"))

    async def readyz(request: Request) -> Response:
        """Ask whether the daemon can serve: 503 while it cannot."""
        state = readiness(service)
        status = 200 if state["status"] == "ready" else 503
        if not is_known(request):
            state = {"status": state["status"]}
        elif not is_admin(request):
            state["reason"] = without_paths(state["reason"])
        elif state["reason"] == service.supervisor.reason:
            state["reason"] = service.supervisor.explained
        return reply(state, status=status)

    return [
        Operation("GET", "/healthz", healthz, Alive, access=Access.ANYONE, scopes=()),
        Operation("GET", "/readyz", readyz, Readiness, access=Access.NEAR, scopes=TENANT_SCOPES, otherwise=503),
    ]
