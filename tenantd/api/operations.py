"""Declares routes once, to serve and to describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from fastapi import Depends, FastAPI, Request
from fastapi.params import Depends as Dependency

from tenantd.api.body import Body
from tenantd.api.identity import require_admin

JSON: Final = "application/json"


class Access(StrEnum):
    """Who may use a route."""

    ANYONE = "anyone"
    TENANT = "tenant"
    ADMINISTRATOR = "administrator"


class Operation(NamedTuple):
    """A method on a path. The docstring of `handler` describes it; its parameters are those of path and query.

    `answer` is the type of the answer with `status`. With `stream`, the body can ask for events of that type
    one. With the status `otherwise` it has the same form. Types are what msgspec takes: TypedDicts, Structs, str.
    """

    method: str
    path: str
    handler: Callable[..., Any]
    answer: Any
    body: type[Body] | None = None
    status: int = 200
    access: Access = Access.ADMINISTRATOR
    stream: Any = None
    media_type: str = JSON
    otherwise: int | None = None


async def _only_admins(request: Request) -> None:
    require_admin(request)


_GUARDS: Final[dict[Access, Sequence[Dependency]]] = {Access.ADMINISTRATOR: [Depends(_only_admins)]}
"""Checks before a handler runs. Handlers for tenants identify the tenant themselves."""


def serve(app: FastAPI, operations: Iterable[Operation]) -> None:
    """Add the operations to the application."""
    for one in operations:
        guards = _GUARDS.get(one.access, ())
        app.add_api_route(one.path, one.handler, methods=[one.method], response_model=None, dependencies=guards)
