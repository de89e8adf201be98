"""Reading a request's body within its bound, and checking it against a model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from tenantd.api.values import check_values
from tenantd.errors import BodyTooLarge, InvalidRequest
from tenantd.text.excerpt import MOST_CHARACTERS, clean

MOST_MISTAKES: Final = 10_000
_LINE_ONE = re.compile(r" at line 1 column (\d+)")


class Body(BaseModel):
    """A request body. Unknown fields are refused: a typing mistake must not pass unseen. Values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known to be, ClientDisconnect."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is over {max_bytes} bytes (server.max_body_bytes)")


def parse(model: type[B], body: bytes) -> B:
    """Check a JSON body. Raises InvalidRequest with the first thing that is wrong and the field it is in.

    Takes up to 0.2 s, with the interpreter's lock held: not for the event loop unless the body is small.
    """
    check_values(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as e:
        raise _explain(model, e) from None


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object a body is, unchecked. Takes as long as `parse`. Raises InvalidRequest."""
    check_values(body)
    try:
        found = from_json(body)
    except ValueError as e:
        raise _not_json(str(e)) from None
    if not isinstance(found, dict):
        raise InvalidRequest("the request body must be a JSON object")
    return found


def validate(model: type[B], data: dict[str, Any]) -> B:
    """Check what `read_object` gave. Raises InvalidRequest as `parse` does."""
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise _explain(model, e) from None


@cache
def own_fields(model: type[Body]) -> dict[str, type[Body] | None]:
    """The names a model takes, each with the object within if its value is one."""
    return {field.alias or name: _inner(field.annotation) for name, field in model.model_fields.items()}


def _inner(annotation: Any) -> type[Body] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Body):
            return kind
    return None


def unknown_field(name: str, known: Iterable[str]) -> str:
    """What is wrong with a name that is none of `known`: the one it may have been meant as."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name[:MOST_CHARACTERS].lower(), by_lower, n=1)
    return f"unknown field; did you mean {by_lower[near[0]]}?" if near else "unknown field"


def _explain(model: type[Body], invalid: ValidationError) -> InvalidRequest:
    if invalid.error_count() > MOST_MISTAKES:  # telling one of them would make an object of each
        return InvalidRequest(f"the request body has {invalid.error_count()} mistakes")
    error = invalid.errors(include_url=False, include_input=False)[0]
    param = _path(error["loc"])
    message: str = error["msg"].removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return _not_json(message.removeprefix("Invalid JSON: "))
    if error["type"] == "extra_forbidden":
        message = unknown_field(str(error["loc"][-1]), _fields_at(model, error["loc"][:-1]))
    if not param:
        return InvalidRequest("the request body must be a JSON object")
    return InvalidRequest(f"{param}: {message}", param=param)


def _not_json(reason: str) -> InvalidRequest:
    reason = _LINE_ONE.sub(r" at character \1", reason)
    reason = reason.replace("unexpected end of hex escape", "lone surrogate or broken \\u escape")
    return InvalidRequest(f"the request body is not valid JSON: {reason}")


def _path(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "content") as `messages[0].content`. Names that the client made up are cut."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{clean(p, MOST_CHARACTERS)}" for p in location)
    return "".join(parts).removeprefix(".")


def _fields_at(model: type[Body] | None, location: tuple[int | str, ...]) -> Iterable[str]:
    """The names of the object at a place within a body."""
    for part in location:
        model = own_fields(model).get(str(part)) if model else None
    return own_fields(model) if model else ()
