"""/healthz and /readyz, for anyone who can connect to the socket."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from tenantd.api.identity import is_admin, is_known
from tenantd.api.replies import reply
from tenantd.printable import without_paths
from tenantd.serving.service import Service


def readiness(service: Service) -> dict[str, object]:
    """`status` (ready, loading, restarting, failed or draining), `progress` of loading, `reason` if not ready."""
    supervisor = service.supervisor
    if service.draining:
        return {"status": "draining", "progress": 1.0, "reason": "the daemon is shutting down"}
    return {"status": str(supervisor.state), "progress": supervisor.progress, "reason": supervisor.reason}


def health_routes(service: Service) -> APIRouter:
    """/healthz, and /readyz, which shows unknown users only the state."""
    router = APIRouter()

    async def healthz() -> Response:
        return reply({"status": "ok"})

    async def readyz(request: Request) -> Response:
        state = readiness(service)
        status = 200 if state["status"] == "ready" else 503
        if not is_known(request, service.directory):
            state = {"status": state["status"]}
        elif not is_admin(request):
            state["reason"] = without_paths(str(state["reason"]))
        return reply(state, status=status)

    router.add_api_route("/healthz", healthz, methods=["GET"], response_model=None)
    router.add_api_route("/readyz", readyz, methods=["GET"], response_model=None)
    return router
