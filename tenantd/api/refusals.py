"""Turns errors into answers, and announces each of them."""

from __future__ import annotations

import logging
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from tenantd.api.connection import connection_of
from tenantd.api.dialect import MESSAGES
from tenantd.api.identity import actor_of, for_asker, whose
from tenantd.api.replies import error_reply, reply, shown_path
from tenantd.api.spellings import unsupported_family
from tenantd.errors import InvalidRequest, ModelNotLoaded, NotFound, TenantdError
from tenantd.events import PathKind, Refused
from tenantd.request_ids import new_request_id

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST: Final = 499  # nginx's
PATHS: Final = {
    "/v1/completions": PathKind.COMPLETION,
    "/v1/chat/completions": PathKind.CHAT,
    "/v1/embeddings": PathKind.EMBEDDING,
    "/tokenize": PathKind.TEXT,
    "/detokenize": PathKind.TEXT,
    "/apply-template": PathKind.TEXT,
    "/v1/responses": PathKind.CHAT,
    MESSAGES: PathKind.CHAT,
    "/v1/models": PathKind.MODELS,
    "/v1/queue": PathKind.QUEUE,
    "/v1/usage": PathKind.FIGURES,
    "/v1/history": PathKind.FIGURES,
    "/v1/identity": PathKind.FIGURES,
    "/v1/limits": PathKind.FIGURES,
    "/v1/live": PathKind.FIGURES,
    "/v1/requests": PathKind.FIGURES,
    "/v1/invoices": PathKind.FIGURES,
    "/web": PathKind.PAGE,
    "/admin": PathKind.ADMIN,
    "/metrics": PathKind.METRICS,
    "/healthz": PathKind.HEALTH,
    "/readyz": PathKind.HEALTH,
}


class MethodNotAllowed(InvalidRequest):
    """The route exists, but not for this method."""

    code = "method_not_allowed"
    http_status = 405


class Unsupported(InvalidRequest):
    """OpenAI's API has this route, but this server does not. Not 404: proxies would take the whole server for gone."""

    code = "unsupported"


def path_kind(path: str) -> PathKind:
    """The kind of a path, which may be below one of `PATHS`."""
    for known, kind in PATHS.items():
        if path == known or path.startswith(known + "/"):
            return kind
    return PathKind.OTHER


def announce_refusal(scope: Scope, error: TenantdError, request_id: str | None = None) -> None:
    """Announce that `error` answers this request. `request_id` is that of its row, if it was admitted.

    If the connection has been answered as malformed, that was announced, and this answer is not sent.
    """
    connection, actor, tenant = connection_of(scope), actor_of(scope), whose(scope)
    if connection.is_refused:
        return
    connection.connections_table.events.announce(
        Refused(
            cause=error.code,
            http_status=error.http_status,
            path=path_kind(scope["path"]),
            tenant=None if tenant is None else tenant.name,
            tenant_id=None if tenant is None else tenant.id,
            key_id=actor.key_id,
            uid=actor.uid,
            address=connection.address,
            request_id=request_id,
        )
    )


async def on_error(request: Request, error: Exception) -> Response:
    """Exception handler for errors raised on purpose."""
    assert isinstance(error, TenantdError)
    if error.http_status >= 500 and not isinstance(error, ModelNotLoaded):  # the daemon's own fault
        log.warning("%s %s: %s: %s", request.method, shown_path(request), error.code, error.message)
    announce_refusal(request.scope, error)
    return error_reply(for_asker(error, request.scope), path=request.scope["path"])


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for the framework's errors: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    refusal: TenantdError
    if error.status_code == 404 and (family := unsupported_family(request.scope["path"])):
        refusal = Unsupported(f"{family}: this server does not have this part of OpenAI's API; see GET /openapi.json")
        answer = error_reply(refusal, path=request.scope["path"])
    elif error.status_code == 404:
        refusal = NotFound(f"no such route: {shown_path(request)}")
        answer = error_reply(refusal, path=request.scope["path"])
    elif error.status_code == 405:
        refusal = MethodNotAllowed(f"{shown_path(request)} does not accept {request.method}")
        answer = error_reply(refusal, path=request.scope["path"])
        answer.headers.update(error.headers or {})
    else:
        refusal = InvalidRequest(str(error.detail))
        answer = reply(refusal.body(), status=error.status_code)
    announce_refusal(request.scope, refusal)
    return answer


async def on_disconnect(request: Request, error: Exception) -> Response:
    """Exception handler for a client that left before its request was complete. Nobody reads this answer."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """Exception handler for bugs. The server logs the traceback; the client sees no internals."""
    request_id = new_request_id()
    log.error("%s %s failed (%s): %r", request.method, shown_path(request), request_id, error)
    refusal = TenantdError("internal error; see the daemon's log")
    announce_refusal(request.scope, refusal)
    return error_reply(refusal, request_id, path=request.scope["path"])
