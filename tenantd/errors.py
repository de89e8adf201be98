"""The error tree: every failure a client can see, with its code, HTTP status and exit code.

Raise the most specific class. The HTTP body is `{"error": {"message", "type", "param", "code"}}`, as OpenAI's
clients expect it. Exit codes follow sysexits.h where it has one: 69 unavailable, 75 temporary, 77 permission,
78 configuration.
"""

from __future__ import annotations

from typing import ClassVar, Self, TypedDict


class ErrorDetail(TypedDict):
    """`code` is the error's name, for programs. `param` is the field that is to blame."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """The JSON object of an HTTP answer that is an error."""

    error: ErrorDetail


class TenantdError(Exception):
    """Base of everything raised on purpose. `message` is for people and says what to do."""

    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    should_retry: ClassVar[bool] = True
    """Whether a client whose rule is to retry this status may; OpenAI's clients obey `x-should-retry`."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        """When to come back is given in seconds or in milliseconds; the error then has both, seconds rounded up."""
        super().__init__(message)
        if retry_after_ms is not None:
            retry_after_s = -(-retry_after_ms // 1000)
        elif retry_after_s is not None:
            retry_after_ms = 1000 * retry_after_s
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.retry_after_ms = retry_after_ms

    def body(self) -> ErrorBody:
        """The JSON object of an HTTP answer."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class ConfigError(TenantdError):
    """The configuration file or an environment override is wrong; starting again will not help."""

    code = "config_invalid"
    exit_code = 78


class ModelError(TenantdError):
    """The model cannot be served: not a GGUF, truncated, unreadable, or too large for this machine."""

    code = "model_invalid"
    exit_code = 78


class NotEnoughMemory(ModelError):
    """The model does not fit the memory that is free now. It may fit later: this machine has enough in all."""


class DaemonNotRunning(TenantdError):
    """Nothing listens on the daemon's socket."""

    code = "daemon_not_running"
    exit_code = 69


class AlreadyRunning(TenantdError):
    """Another daemon holds the socket or the state folder."""

    code = "already_running"


class InvalidRequest(TenantdError):
    """The request itself is wrong; sending it again will not help."""

    code = "invalid_request"
    type = "invalid_request_error"
    http_status = 400
    exit_code = 2


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output together do not fit the context of a slot, or what the tenant may use of it."""

    code = "context_length_exceeded"

    @classmethod
    def of(cls, prompt_tokens: int, holds_tokens: int, *, at_least: bool = False, tenant: str = "") -> Self:
        """`tenant` is whose own limit it is; "" for the model's. `at_least` says that nobody counted further.

        The message begins with OpenAI's words: clients such as litellm fall back to a larger model when they see them.
        """
        whose = f" for tenant {tenant}" if tenant else ""
        counted = f"{'at least ' if at_least else ''}{prompt_tokens}"
        return cls(
            f"This model's maximum context length is {holds_tokens} tokens{whose}. However, your prompt resulted in "
            f"{counted} tokens. Prompt and output must fit together: send a shorter prompt.",
            param="prompt",
        )


class MaxTokensPerRequestExceeded(InvalidRequest):
    """More output is asked for than the tenant's `max_tokens_per_request`."""

    code = "max_tokens_per_request_exceeded"


class PromptOverTokensPerMinute(InvalidRequest):
    """The prompt alone is over the tenant's `tokens_per_minute`: no waiting will make it fit."""

    code = "prompt_exceeds_tokens_per_minute"


class BodyTooLarge(InvalidRequest):
    """The request body is over `server.max_body_bytes`."""

    code = "body_too_large"
    http_status = 413


class BodyTimeout(InvalidRequest):
    """The request body stopped coming for `server.body_timeout_s`."""

    code = "body_timeout"
    type = "timeout_error"
    http_status = 408
    exit_code = 75


class HeadTimeout(InvalidRequest):
    """The request's line and headers were not whole within `server.head_timeout_s`."""

    code = "head_timeout"
    type = "timeout_error"
    http_status = 408
    exit_code = 75


class TooManyBodyBytes(TenantdError):
    """One tenant sends more at the same time than its part of `server.body_bytes_total`."""

    code = "too_many_body_bytes"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class BodyMemoryFull(TenantdError):
    """The memory for bodies was needed for tenants that hold less of it."""

    code = "body_memory_full"
    http_status = 503
    exit_code = 75


class TooManyConnections(TenantdError):
    """A Unix user, a key, or everybody together, has as many connections as there may be."""

    code = "too_many_connections"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class Unauthenticated(TenantdError):
    """No identity, or a key that is unknown, revoked or malformed."""

    code = "invalid_api_key"
    type = "authentication_error"
    http_status = 401
    exit_code = 77


class KeyRevoked(Unauthenticated):
    """The key was good when the request came, and has been revoked since; what was generated is billed."""

    code = "key_revoked"


class Forbidden(TenantdError):
    """The identity is known and may not do this."""

    code = "forbidden"
    type = "permission_error"
    http_status = 403
    exit_code = 77


class TenantSuspended(Forbidden):
    """The tenant exists and is suspended by an administrator."""

    code = "tenant_suspended"


class NotFound(TenantdError):
    """No such tenant, key, request, model or route."""

    code = "not_found"
    type = "invalid_request_error"
    http_status = 404


class Conflict(TenantdError):
    """It exists already, or its state does not allow this."""

    code = "conflict"
    type = "invalid_request_error"
    http_status = 409


class QueueFull(TenantdError):
    """The tenant has `max_queued` requests waiting already; `retry_after_s` is when a place should be free."""

    code = "queue_full"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class MaxConcurrentExceeded(QueueFull):
    """The tenant runs its `max_concurrent` requests, and its queue is full as well."""

    code = "max_concurrent_exceeded"


class RequestsPerMinuteExceeded(TenantdError):
    """The tenant has used up its `requests_per_minute`; after `retry_after_ms` one more will be taken."""

    code = "requests_per_minute_exceeded"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class TokensPerMinuteExceeded(TenantdError):
    """The tenant's `tokens_per_minute` have no room for this prompt; after `retry_after_ms` they will have."""

    code = "tokens_per_minute_exceeded"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class RequestTimeout(TenantdError):
    """The request was not complete within the `timeout_s` it came with; what was generated is billed."""

    code = "request_timeout"
    type = "timeout_error"
    http_status = 408
    exit_code = 75
    should_retry = False  # the deadline was the client's own, and each try is billed


class Draining(TenantdError):
    """The daemon is shutting down and takes no new requests."""

    code = "draining"
    http_status = 503
    exit_code = 75


class EngineUnavailable(TenantdError):
    """The engine is loading, or crashed too often in a row; the message has the reason."""

    code = "engine_unavailable"
    http_status = 503
    exit_code = 75


class EngineFailure(TenantdError):
    """The engine ran and could not finish this one request; others are untouched."""

    code = "engine_failure"


class RequestCancelled(TenantdError):
    """An administrator, or the daemon's shutdown, ended the request before its answer was complete."""

    code = "cancelled"
    http_status = 503
    exit_code = 75


class LedgerUnavailable(TenantdError):
    """The ledger cannot be written (disk full, locked, read-only), so nothing new may start unbilled."""

    code = "ledger_unavailable"
    http_status = 503
    exit_code = 75


class LedgerDamaged(LedgerUnavailable):
    """The ledger's file is damaged; starting again will not help, a backup will."""

    exit_code = 78


def key_revoked() -> KeyRevoked:
    """What requests of a key end with when it is revoked."""
    return KeyRevoked("this API key was revoked; ask your administrator for a new one")
