"""What is different on Anthropic's routes for all requests: the header with the key, and the form of errors."""

from __future__ import annotations

from typing import Final, Literal, TypedDict

from tenantd.errors import ErrorBody, TenantdError

MESSAGES: Final = "/v1/messages"
KEY_HEADER: Final = "x-api-key"
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class AnthropicDetail(TypedDict):
    """`type` is Anthropic's; `code` and `param` are as on all other routes."""

    type: str
    message: str
    code: str
    param: str | None


class AnthropicError(TypedDict):
    """The JSON body of an error answer, in Anthropic's form."""

    type: Literal["error"]
    error: AnthropicDetail


def is_anthropics(path: str) -> bool:
    """Whether a path is that of one of Anthropic's routes."""
    return path == MESSAGES or path.startswith(MESSAGES + "/")


def error_body(error: TenantdError, path: str) -> ErrorBody | AnthropicError:
    """The body of an error answer to a request for this path."""
    return anthropics_body(error) if is_anthropics(path) else error.body()


def anthropics_body(error: TenantdError) -> AnthropicError:
    """The error in Anthropic's form."""
    kind = _TYPES.get(error.http_status, "invalid_request_error" if error.http_status < 500 else "api_error")
    detail = AnthropicDetail(type=kind, message=error.message, code=error.code, param=error.param)
    return AnthropicError(type="error", error=detail)
