"""Declares routes once, to serve and to describe them: also who may use each, which is checked before its handler."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tenantd.api.body import Body
from tenantd.api.connection import connection_of
from tenantd.api.identity import (
    actor_of,
    look_up_key,
    require_admin,
    require_known,
    require_scope,
    require_tenant,
)
from tenantd.api.origins import refuse_foreign_pages
from tenantd.domain import Scope
from tenantd.errors import TenantdError, Unauthenticated
from tenantd.serving.service import Service

JSON: Final = "application/json"


class Access(StrEnum):
    """Who may use a route."""

    ANYONE = "anyone"
    NEAR = "near"  # whoever can connect to the Unix socket; elsewhere as `KNOWN`
    KNOWN = "known"  # whoever belongs to a tenant, and administrators; the answer is the same for all
    TENANT = "tenant"  # whoever acts for a tenant; `tenant_of` tells the handler which
    ADMINISTRATOR = "administrator"


class Header(NamedTuple):
    """A header that a request may have, and what its value looks like, as a JSON schema."""

    name: str
    description: str
    schema: dict[str, Any]


class Operation(NamedTuple):
    """A method on a path. The docstring of `handler` describes it; its parameters are those of path and query.

    `answer` is the type of the answer with `status`. With `stream`, the body can ask for events of that type
    one. With the status `otherwise` it has the same form. Types are what msgspec takes: TypedDicts, Structs, str.
    Errors have the form `error`, or that of most routes.
    A key needs one of the `scopes`; () if anyone may ask. The scope admin includes all others.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Response]]
    answer: Any
    body: type[Body] | None = None
    status: int = 200
    access: Access = Access.ADMINISTRATOR
    scopes: tuple[Scope, ...] = (Scope.ADMIN,)
    stream: Any = None
    media_type: str = JSON
    otherwise: int | None = None
    headers: tuple[Header, ...] = ()
    error: Any = None


Identify = Callable[[Request], Awaitable[None]]


def serve(app: Starlette, operations: Iterable[Operation], service: Service, identify: Identify | None = None) -> None:
    """Add the operations to the application, each guarded as it declares. `identify` finds out who asks, in another way
    than by a key, and has checked which pages may ask."""
    for one in operations:
        endpoint = _endpoint(one, _guard(one, service, identify))
        app.router.routes.append(Route(one.path, endpoint, methods=served_methods(one)))


def served_methods(one: Operation) -> list[str]:
    """HEAD is answered where GET is."""
    return [one.method, "HEAD"] if one.method == "GET" else [one.method]


def _endpoint(one: Operation, check: Identify) -> Callable[[Request], Awaitable[Response]]:
    """Calls the handler with what it takes from path and query, all of them text, after the check."""
    texts, of_request = parameters(one)

    async def answer(request: Request) -> Response:
        await check(request)
        given = {**request.query_params, **request.path_params}
        arguments = {text.name: given[text.name] for text in texts if text.name in given}
        return await one.handler(**arguments, **dict.fromkeys(of_request, request))

    return answer


def parameters(one: Operation) -> tuple[list[inspect.Parameter], list[str]]:
    """Those of the handler that come from path and query, and the name of that which takes the request, if any."""
    taken = inspect.signature(one.handler, eval_str=True).parameters.values()
    of_request = [each.name for each in taken if each.annotation is Request]
    return [each for each in taken if each.name not in of_request], of_request


def _guard(one: Operation, service: Service, identify: Identify | None) -> Identify:
    """Checks who asks before the handler of an operation runs."""
    by_key = functools.partial(_by_key, service=service)

    async def check(request: Request) -> None:
        is_near = connection_of(request.scope).door.listen is None
        if one.access is Access.ANYONE and not is_near:
            return  # and no way to try keys out
        if one.access is Access.ADMINISTRATOR:
            if identify is None:
                refuse_foreign_pages(request)
            await (identify or by_key)(request)
            require_admin(request)
        elif one.access is Access.ANYONE or (one.access is Access.NEAR and is_near):
            with contextlib.suppress(TenantdError):  # a wrong key is as good as none
                await by_key(request)
                require_known(request, service.directory)
        else:
            await (identify or by_key)(request)
            require_scope(request, one.scopes)
            find = require_tenant if one.access is Access.TENANT else require_known
            find(request, service.directory)

    return check


async def _by_key(request: Request, service: Service) -> None:
    """Look up the key that is shown, if any. Raises Unauthenticated, TooManyConnections."""
    try:
        key = look_up_key(request, service.directory)
    except Unauthenticated:
        connection = connection_of(request.scope)
        if connection.address is not None:
            await connection.connections_table.wrong_keys.hold_up(connection.address)
        raise
    if key is not None:
        service.key_used(key, actor_of(request.scope))
