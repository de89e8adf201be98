"""Describes the API for programs: an OpenAPI 3.1 document, built from the operations and their types."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from tenantd import __version__
from tenantd.api.identity import TENANT_HEADER, is_admin
from tenantd.api.operations import JSON, Access, Operation, parameters
from tenantd.api.replies import reply
from tenantd.domain import Scope
from tenantd.errors import ErrorBody
from tenantd.tenancy.keys import TENANT_SCOPES

MODEL: Final = "#/components/schemas/{model}"  # as pydantic has it
NAME: Final = "#/components/schemas/{name}"  # and msgspec
EVENTS: Final = "text/event-stream"
_CONVERTER: Final = re.compile(r":\w+}")
_ABOUT: Final = """\
Serves one model to many tenants, on a Unix socket and, if so configured, on TCP. On TCP, clients are identified only
by API keys, and every route but /healthz needs one. OpenAI's routes also work without /v1, HEAD works wherever GET
does, and a slash at the end of a path makes no difference. Request bodies also accept other servers' names for the same
settings; unknown fields are refused. Every answer has an `x-request-id`, answers to tenants with limits have
`x-ratelimit-` headers, and a 429 or 503 that is worth another try has a `retry-after`."""
_SECURITY: Final = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key with the named scope. A tenant's key acts for its tenant. A key with the scope "
        "admin administers; it may also act for the tenant named in the header X-Tenant, as any key of it may.",
    },
    "user": {
        "type": "apiKey",
        "in": "header",
        "name": TENANT_HEADER,
        "description": "Without a key, the caller is the Unix user at the other end of the socket, as the kernel "
        "reports it. Root, the user who runs the daemon and members of server.admin_group administer it. The header "
        "chooses one of the user's tenants; administrators may name any. It is not needed for administration, nor by "
        "a user of only one tenant.",
    },
}


_GROUPS: Final = {Access.KNOWN: Access.TENANT, Access.NEAR: Access.ANYONE}


class Description:
    """Serves the document; only administrators see the administration routes."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        own = Operation("GET", "/openapi.json", self.show, dict[str, Any], access=Access.NEAR, scopes=TENANT_SCOPES)
        self.operations = [*operations, own]
        self._made: dict[bool, msgspec.Raw] = {}

    async def show(self, request: Request) -> Response:
        """Describe the API, as OpenAPI 3.1."""
        with_administration = is_admin(request) and "origin" not in request.headers  # as administration itself
        return reply(await asyncio.to_thread(self._document, with_administration=with_administration))

    def _document(self, *, with_administration: bool) -> msgspec.Raw:
        """Built on first use, which takes too long for the event loop."""
        if with_administration not in self._made:
            shown = [one for one in self.operations if with_administration or one.access is not Access.ADMINISTRATOR]
            self._made[with_administration] = msgspec.Raw(msgspec.json.encode(document(shown)))
        return self._made[with_administration]


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """An OpenAPI 3.1 document of these operations."""
    operations = list(operations)
    bodies = dict.fromkeys(one.body for one in operations if one.body is not None)
    body_schemas, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=MODEL)
    answers = [kind for one in operations for kind in (one.answer, one.stream, one.error) if kind is not None]
    shapes, components = msgspec.json.schema_components([*answers, ErrorBody], ref_template=NAME)
    schemas = dict(zip([*answers, ErrorBody], shapes, strict=True))
    schemas |= {body: schema for (body, _), schema in body_schemas.items()}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(_CONVERTER.sub("}", one.path), {})[one.method.lower()] = _operation(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tenantd", "version": __version__, "description": _ABOUT, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": {**components, **definitions.get("$defs", {})},
            "responses": {
                "Error": {"description": "What went wrong", "content": {JSON: {"schema": schemas[ErrorBody]}}},
            },
            "securitySchemes": _SECURITY,
        },
    }


def _operation(one: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {one.media_type: {"schema": schemas[one.answer]}}
    if one.stream is not None:
        events = {"type": "string", "contentMediaType": JSON, "contentSchema": schemas[one.stream]}
        answer[EVENTS] = {"schema": events}
    statuses = [one.status] if one.otherwise is None else [one.status, one.otherwise]
    group = _GROUPS.get(one.access, one.access)
    described: dict[str, Any] = {
        "operationId": one.handler.__name__,
        "summary": inspect.getdoc(one.handler),
        "tags": [group.value],
        "security": _who(one),
        "parameters": _parameters(one),
        "responses": {
            **{str(status): {"description": HTTPStatus(status).phrase, "content": answer} for status in statuses},
            "default": _error(one, schemas),
        },
    }
    if one.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas[one.body]}}}
    return described


def _error(one: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    if one.error is None:
        return {"$ref": "#/components/responses/Error"}
    return {"description": "What went wrong", "content": {JSON: {"schema": schemas[one.error]}}}


def _who(one: Operation) -> list[dict[str, list[str]]]:
    """The alternatives: a key with one of the scopes, or a user without a key."""
    if one.access is Access.ANYONE:
        return []
    keys: list[dict[str, list[str]]] = [{"key": [scope.value]} for scope in dict.fromkeys((*one.scopes, Scope.ADMIN))]
    return [*keys, {}] if one.access is Access.NEAR else [*keys, {"user": []}]


def _parameters(one: Operation) -> list[dict[str, Any]]:
    """Parameters of path and query, as the handler takes them, and headers. All are strings."""
    found: list[dict[str, Any]] = [
        {
            "name": header.name,
            "in": "header",
            "required": False,
            "description": header.description,
            "schema": header.schema,
        }
        for header in one.headers
    ]
    for parameter in parameters(one)[0]:
        in_path = re.search(rf"{{{parameter.name}\b", one.path) is not None
        schema: dict[str, Any] = {"type": "string"}
        if parameter.default not in (None, inspect.Parameter.empty):
            schema["default"] = parameter.default
        found.append(
            {"name": parameter.name, "in": "path" if in_path else "query", "required": in_path, "schema": schema}
        )
    return found
