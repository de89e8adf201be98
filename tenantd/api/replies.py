"""Answers that are not streams: JSON with an `x-request-id`, and errors in OpenAI's format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from tenantd.api.dialect import error_body
from tenantd.errors import TenantdError
from tenantd.printable import one_line
from tenantd.request_ids import new_request_id
from tenantd.tenancy.budget_accounts import BudgetState
from tenantd.tenancy.rates import RateState

MOST_PATH_CHARACTERS: Final = 200
_encoder = msgspec.json.Encoder()


def reply(content: Any, *, status: int = 200, request_id: str = "", headers: dict[str, str] | None = None) -> Response:
    """A JSON answer. `content` is anything that msgspec encodes; `request_id` is that of the ledger row, if any."""
    all_headers = {"x-request-id": request_id or new_request_id(), **(headers or {})}
    return Response(_encoder.encode(content), status, all_headers, media_type="application/json")


def rate_headers(states: Mapping[str, RateState]) -> list[tuple[bytes, bytes]]:
    """What is left of a tenant's limits, as OpenAI's headers. Resets are whole seconds, rounded up: "1m3s"."""
    headers: list[tuple[bytes, bytes]] = []
    for what, state in states.items():
        minutes, seconds = divmod(-(-state.reset_micros // 1_000_000), 60)
        reset = f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
        for name, value in (("limit", state.limit), ("remaining", state.remaining), ("reset", reset)):
            headers.append((f"x-ratelimit-{name}-{what}".encode(), str(value).encode()))
    return headers


def budget_headers(states: Iterable[BudgetState], key_id: str | None) -> list[tuple[bytes, bytes]]:
    """The budget that is nearest to its end, if it has reached a level that its administrator warns of.

    Of `states`, those of keys are left out if the request has no key.
    """
    shares = [
        (state.percent, state.budget)
        for state in states
        if (key_id or not state.budget.key_id) and state.budget.warn and state.percent >= state.budget.warn[0]
    ]
    if not shares:
        return []
    percent, budget = max(shares, key=lambda share: share[0])
    return [(b"x-tenantd-budget", f"{budget.period} {budget.unit} {percent}%".encode())]


def shown_path(request: Request) -> str:
    """The requested path, safe to show. Not `request.url`: without a host it begins with the path of our socket."""
    return one_line(request.scope["path"], MOST_PATH_CHARACTERS)


def encode_error(error: TenantdError) -> bytes:
    """The error's body, for answers and for events in a stream."""
    return _encoder.encode(error.body())


def closing_answer(error: TenantdError) -> bytes:
    """The whole answer to input that is not answered by a route, after which the connection is closed."""
    body = encode_error(error)
    retry = b"" if error.retry_after_s is None else b"retry-after: %d\r\n" % error.retry_after_s
    return (
        b"%scontent-type: application/json\r\nx-request-id: %s\r\n%scontent-length: %d\r\nconnection: close\r\n\r\n"
        % (STATUS_LINE[error.http_status], new_request_id().encode(), retry, len(body))
    ) + body


def error_reply(error: TenantdError, request_id: str = "", *, path: str = "") -> Response:
    """The answer for an error to a request for `path`, with when to retry if that is known."""
    headers = {} if error.should_retry else {"x-should-retry": "false"}
    if error.retry_after_s is not None:
        headers |= {"retry-after": str(error.retry_after_s), "retry-after-ms": str(error.retry_after_ms)}
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.http_status == 413:
        headers["connection"] = "close"  # we do not read the rest of the body
    return reply(error_body(error, path), status=error.http_status, request_id=request_id, headers=headers)
