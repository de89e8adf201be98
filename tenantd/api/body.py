"""Reads a request's body within limits on size, memory and time, and validates it against a model."""

from __future__ import annotations

import asyncio
import difflib
import io
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from tenantd.api.budget import Lease
from tenantd.api.connection import connection_of
from tenantd.api.identity import asking
from tenantd.api.values import check_values
from tenantd.errors import AnswerTooLarge, BodyTimeout, BodyTooLarge, InvalidRequest
from tenantd.mistakes import in_words
from tenantd.text.excerpt import MOST_CHARACTERS, clean

MOST_MISTAKES: Final = 10_000
PROGRESS_BYTES: Final = 16 * 1024
"""An incomplete body that makes less progress than this within `server.body_timeout_s` is dropped."""
WIDE_BYTES: Final = 1 << 20
LEASE: Final = "tenantd.lease"
ANSWER: Final = "tenantd.answer"
_LINE_ONE = re.compile(r" at line 1 column (\d+)")


class Body(BaseModel):
    """A request body. Unknown fields are refused, so that no typo goes unnoticed. Values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Its memory counts towards the sender's share until `give_back_body`. A listener may allow less
    than `max_bytes`.

    Raises BodyTooLarge as early as possible, BodyTimeout, TooManyBodyBytes, BodyMemoryFull, ClientDisconnect.
    """
    connection = connection_of(request.scope)
    settings = connection.door.settings()
    max_bytes = min(max_bytes, settings.max_body_bytes)
    announced = request.headers.get("content-length", "0")
    size_bytes = int(announced) if announced.isdecimal() else 0
    if size_bytes > max_bytes:
        raise _too_large(max_bytes)
    lease = connection.connections_table.bodies.lease(_owner(request.scope), lambda: reader.stop())
    reader = _Reader(request, lease, settings.body_timeout_s)
    request.scope["extensions"][LEASE] = reader.lease
    try:
        body = await reader.read(size_bytes, max_bytes)
        reader.lease.complete()
        if len(body) > WIDE_BYTES and _is_wide(body):
            if len(body) > max_bytes // 2:
                raise BodyTooLarge(
                    f"a body with non-ASCII characters may have at most {max_bytes // 2} bytes "
                    "(half of server.max_body_bytes)"
                )
            await reader.lease.have_widened(settings.body_timeout_s)
    except BaseException:
        reader.lease.give_back()
        raise
    return body


def _is_wide(body: bytes) -> bool:
    """Whether Python may need up to four bytes per character: one character beyond ASCII is enough."""
    return not body.isascii() or b"\\u" in body


def give_back_body(scope: Scope) -> None:
    """Call when nothing refers to the request's body any more. Safe to call twice, and if no body was read."""
    lease: Lease | None = scope["extensions"].get(LEASE)
    if lease is not None:
        lease.give_back()


def check_answer(scope: Scope, size_bytes: int, advice: Callable[[int], str]) -> None:
    """Refuse what would be answered with more than `hold_answer` can get for its sender, or whose sender has too many
    answers that wait for memory.

    `advice` says what to do if at most so many bytes are available. Raises AnswerTooLarge, TooManyBodyBytes.
    """
    _check_size(scope, size_bytes, advice)
    connection_of(scope).connections_table.answers.check_waiting(_owner(scope))


def _check_size(scope: Scope, size_bytes: int, advice: Callable[[int], str] | None = None) -> None:
    answers = connection_of(scope).connections_table.answers
    if size_bytes > (most_bytes := answers.most_bytes):
        raise AnswerTooLarge(
            f"the answer would take {size_bytes} bytes of memory, and at most {most_bytes} are available (half of "
            f"server.body_bytes_total); {'ask for less at a time' if advice is None else advice(most_bytes)}"
        )


async def hold_answer(scope: Scope, size_bytes: int, patience_s: float | None = None) -> None:
    """Wait for the memory of an answer that is out of proportion to what makes it, and count it until
    `give_back_answer`. What answers have is apart from what bodies have. Nobody else can take it back, so hold it only
    while an answer is made and sent, which `Portions` bounds.

    Raises AnswerTooLarge, TooManyBodyBytes after `patience_s`, as long as for a body unless given, and BodyMemoryFull.
    """
    _check_size(scope, size_bytes)
    connection = connection_of(scope)
    lease = connection.connections_table.answers.lease(_owner(scope), lambda: None)
    scope["extensions"][ANSWER] = lease
    await lease.grow(size_bytes, patience_s or connection.door.settings().body_timeout_s)
    if lease.refusal is not None:
        raise lease.refusal
    lease.complete()


def _owner(scope: Scope) -> str:
    tenant = asking(scope)
    return connection_of(scope).source.name if tenant is None else f"tenant {tenant.name}"


def give_back_answer(scope: Scope) -> None:
    """Call when nothing refers to an answer any more. Safe if none was held."""
    lease: Lease | None = scope["extensions"].get(ANSWER)
    if lease is not None:
        lease.give_back()


class _Reader:
    """Reads one body."""

    def __init__(self, request: Request, lease: Lease, timeout_s: float) -> None:
        self.lease = lease
        self._request = request
        self._timeout_s = timeout_s
        self._patience: asyncio.Timeout | None = None

    def stop(self) -> None:
        """Stop reading, because the lease was revoked."""
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def read(self, size_bytes: int, max_bytes: int) -> bytes:
        """The whole body. `size_bytes` is its Content-Length, 0 for a chunked body."""
        if size_bytes:
            await self.lease.grow(size_bytes, self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s) as self._patience:
                return await self._read(max_bytes)
        except TimeoutError:
            timeout = f"fewer than {PROGRESS_BYTES} bytes of the request body arrived within {self._timeout_s:g} s"
            raise self.lease.refusal or BodyTimeout(timeout) from None
        finally:
            self._patience = None

    async def _read(self, max_bytes: int) -> bytes:
        buffer = io.BytesIO()  # getvalue() returns the bytes without copying them
        seen = progress = 0
        while True:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            seen += len(chunk)
            if seen > max_bytes:
                raise _too_large(max_bytes)
            if not message.get("more_body", False) and seen == len(chunk) <= self.lease.held_bytes:
                return chunk
            if seen > self.lease.held_bytes:
                await self._grow(min(max(seen, 2 * self.lease.held_bytes), max_bytes) - self.lease.held_bytes)
            buffer.write(chunk)
            if not message.get("more_body", False):
                return buffer.getvalue()
            progress += len(chunk)
            if progress >= PROGRESS_BYTES:
                progress = 0
                self._be_patient(self._timeout_s)

    async def _grow(self, more_bytes: int) -> None:
        """Grow the lease. The time spent waiting for memory does not count as the client's delay."""
        self._be_patient(2 * self._timeout_s)
        await self.lease.grow(more_bytes, self._timeout_s)
        self._be_patient(self._timeout_s)

    def _be_patient(self, timeout_s: float) -> None:
        assert self._patience is not None, "while reading"
        if self.lease.refusal is None:
            self._patience.reschedule(asyncio.get_running_loop().time() + timeout_s)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {max_bytes} bytes (server.max_body_bytes)")


def parse(model: type[B], body: bytes) -> B:
    """Validate a JSON body. Raises InvalidRequest with the first mistake and its field.

    Takes up to 0.2 s and holds the GIL meanwhile, so do not call it in the event loop unless the body is small.
    """
    check_values(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as e:
        raise _explain(model, e) from None


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, not validated. Takes as long as `parse`. Raises InvalidRequest."""
    check_values(body)
    try:
        found = from_json(body)
    except ValueError as e:
        raise _not_json(str(e)) from None
    if not isinstance(found, dict):
        raise InvalidRequest("the request body must be a JSON object")
    return found


def validate(model: type[B], data: dict[str, Any]) -> B:
    """Validate a result of `read_object`. Raises InvalidRequest like `parse`."""
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise _explain(model, e) from None


@cache
def own_fields(model: type[Body]) -> dict[str, type[Body] | None]:
    """The field names of a model, each with the model of its value if that is an object."""
    return {field.alias or name: _inner(field.annotation) for name, field in model.model_fields.items()}


def _inner(annotation: Any) -> type[Body] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Body):
            return kind
    return None


def unknown_field(name: str, known: Iterable[str]) -> str:
    """The error for a name that is not in `known`, with the name that was probably meant."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name[:MOST_CHARACTERS].lower(), by_lower, n=1)
    return f"unknown field; did you mean {by_lower[near[0]]}?" if near else "unknown field"


def _explain(model: type[Body], invalid: ValidationError) -> InvalidRequest:
    if invalid.error_count() > MOST_MISTAKES:  # reading even one would create an object for each
        return InvalidRequest(f"the request body has {invalid.error_count()} mistakes")
    error = invalid.errors(include_url=False, include_input=False)[0]
    param = _path(error["loc"])
    if error["type"] == "json_invalid":
        return _not_json(error["msg"].removeprefix("Invalid JSON: "))
    if not param:
        return InvalidRequest("the request body must be a JSON object")
    if error["type"] == "extra_forbidden":
        message = unknown_field(str(error["loc"][-1]), _fields_at(model, error["loc"][:-1]))
    else:
        message = in_words(error)
    return InvalidRequest(f"{param}: {message}", param=param)


def _not_json(reason: str) -> InvalidRequest:
    reason = _LINE_ONE.sub(r" at character \1", reason)
    reason = reason.replace("unexpected end of hex escape", "lone surrogate or broken \\u escape")
    return InvalidRequest(f"the request body is not valid JSON: {reason}")


def _path(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "content") as `messages[0].content`. Long names from the client are truncated."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{clean(p, MOST_CHARACTERS)}" for p in location)
    return "".join(parts).removeprefix(".")


def _fields_at(model: type[Body] | None, location: tuple[int | str, ...]) -> Iterable[str]:
    """The field names of the object at this location in a body."""
    for part in location:
        model = own_fields(model).get(str(part)) if model else None
    return own_fields(model) if model else ()
