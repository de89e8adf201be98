"""Declares routes once, to serve and to describe them: also who may use each, which is checked before its handler."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from fastapi import Depends, FastAPI, Request

from tenantd.api.body import Body
from tenantd.api.identity import (
    actor_of,
    look_up_key,
    refuse_browsers,
    require_admin,
    require_known,
    require_scope,
    require_tenant,
)
from tenantd.domain import Scope
from tenantd.errors import TenantdError
from tenantd.serving.service import Service

JSON: Final = "application/json"


class Access(StrEnum):
    """Who may use a route."""

    ANYONE = "anyone"
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
    A key needs one of the `scopes`; () if anyone may ask. The scope admin includes all others.
    """

    method: str
    path: str
    handler: Callable[..., Any]
    answer: Any
    body: type[Body] | None = None
    status: int = 200
    access: Access = Access.ADMINISTRATOR
    scopes: tuple[Scope, ...] = (Scope.ADMIN,)
    stream: Any = None
    media_type: str = JSON
    otherwise: int | None = None
    headers: tuple[Header, ...] = ()


def serve(app: FastAPI, operations: Iterable[Operation], service: Service) -> None:
    """Add the operations to the application, each guarded as it declares."""
    for one in operations:
        guards = [Depends(_guard(one, service))]
        app.add_api_route(one.path, one.handler, methods=[one.method], response_model=None, dependencies=guards)


def _guard(one: Operation, service: Service) -> Callable[[Request], Awaitable[None]]:
    """Checks who asks before the handler of an operation runs."""

    async def check(request: Request) -> None:
        if one.access is Access.ADMINISTRATOR:
            refuse_browsers(request)
            _identify(request, service)
            require_admin(request)
        elif one.access is Access.ANYONE:
            with contextlib.suppress(TenantdError):  # a wrong key is as good as none
                _identify(request, service)
                require_known(request, service.directory)
        else:
            _identify(request, service)
            require_scope(request, one.scopes)
            find = require_known if one.access is Access.KNOWN else require_tenant
            find(request, service.directory)

    return check


def _identify(request: Request, service: Service) -> None:
    """Look up the key that is shown, if any. Raises Unauthenticated, TooManyConnections."""
    if (key := look_up_key(request, service.directory)) is not None:
        service.key_used(key, actor_of(request.scope))
