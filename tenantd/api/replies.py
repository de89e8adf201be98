"""Every answer that is not a stream: JSON with an `x-request-id`, errors in OpenAI's shape."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tenantd.errors import TenantdError
from tenantd.printable import one_line
from tenantd.tenancy.rates import RateState

MOST_PATH_CHARACTERS: Final = 200
_encoder = msgspec.json.Encoder()


def new_request_id() -> str:
    """For answers that have no row in the ledger."""
    return f"req_{secrets.token_hex(12)}"


def reply(content: Any, *, status: int = 200, request_id: str = "", headers: dict[str, str] | None = None) -> Response:
    """A JSON answer. `content` is anything msgspec encodes; `request_id` the ledger row's, if there is one."""
    all_headers = {"x-request-id": request_id or new_request_id(), **(headers or {})}
    return Response(_encoder.encode(content), status, all_headers, media_type="application/json")


def rate_headers(states: Mapping[str, RateState]) -> list[tuple[bytes, bytes]]:
    """What is left of a tenant's limits, in OpenAI's headers. A reset is in whole seconds, rounded up, as "1m3s"."""
    headers: list[tuple[bytes, bytes]] = []
    for what, state in states.items():
        minutes, seconds = divmod(-(-state.reset_micros // 1_000_000), 60)
        reset = f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
        for name, value in (("limit", state.limit), ("remaining", state.remaining), ("reset", reset)):
            headers.append((f"x-ratelimit-{name}-{what}".encode(), str(value).encode()))
    return headers


def shown_path(request: Request) -> str:
    """The path asked for, fit to be shown. `request.url` would begin with our socket's path when no host is named."""
    return one_line(request.scope["path"], MOST_PATH_CHARACTERS)


def encode_error(error: TenantdError) -> bytes:
    """The error's body, for answers and for events in a stream."""
    return _encoder.encode(error.body())


def error_reply(error: TenantdError, request_id: str = "") -> Response:
    """The answer that says what went wrong, and when to come back if that is known."""
    headers = {} if error.should_retry else {"x-should-retry": "false"}
    if error.retry_after_s is not None:
        headers |= {"retry-after": str(error.retry_after_s), "retry-after-ms": str(error.retry_after_ms)}
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.http_status == 413:
        headers["connection"] = "close"  # the rest of the body is not read
    return reply(error.body(), status=error.http_status, request_id=request_id, headers=headers)
