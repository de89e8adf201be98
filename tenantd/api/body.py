"""Reading a request's body within its bound, and checking it against a model."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from tenantd.api.values import check_values
from tenantd.errors import BodyTooLarge, InvalidRequest
from tenantd.text.excerpt import MOST_CHARACTERS, clean

MOST_MISTAKES: Final = 10_000
_LINE_ONE = re.compile(r" at line 1 column (\d+)")


class Body(BaseModel):
    """A request body. Unknown fields are ignored, as OpenAI's API ignores them; values are not converted."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


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
        if e.error_count() > MOST_MISTAKES:  # telling one of them would make an object of each
            raise InvalidRequest(f"the request body has {e.error_count()} mistakes") from None
        raise _explain(e.errors(include_url=False, include_input=False)[0]) from None


def _explain(error: Any) -> InvalidRequest:
    param = _path(error["loc"])
    message: str = error["msg"].removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        reason = _LINE_ONE.sub(r" at character \1", message.removeprefix("Invalid JSON: "))
        reason = reason.replace("unexpected end of hex escape", "lone surrogate or broken \\u escape")
        return InvalidRequest(f"the request body is not valid JSON: {reason}")
    if not param:
        return InvalidRequest("the request body must be a JSON object")
    return InvalidRequest(f"{param}: {message}", param=param)


def _path(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "content") as `messages[0].content`. Names that the client made up are cut."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{clean(p, MOST_CHARACTERS)}" for p in location)
    return "".join(parts).removeprefix(".")
