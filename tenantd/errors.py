"""The error tree: every failure a client can see, with its code, HTTP status and exit code.

Raise the most specific class. The HTTP body is OpenAI's: `{"error": {"message", "type", "param", "code"}}`. Exit codes
follow sysexits.h where it has one: 69 unavailable, 75 temporary, 77 permission, 78 configuration.
"""

from __future__ import annotations

from typing import ClassVar, NotRequired, Self, TypedDict


class RequestAndState(TypedDict):
    """A request, and its state in the ledger: "running", how it ended, or "unknown" if its row was pruned."""

    id: str
    state: str


class PromptDetails(TypedDict):
    """Of the prompt tokens, those that were not computed because an earlier prompt began with them."""

    cached_tokens: int


class TokenUsage(TypedDict):
    """Tokens of requests or choices together, as they are billed. `prompt_tokens` are those computed and those
    cached."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class FirstOfKey(TypedDict):
    """The requests that an idempotency key stands for, and what they have used so far."""

    requests: list[RequestAndState]
    usage: TokenUsage


class ErrorDetail(TypedDict):
    """`code` identifies the error for programs. `param` names the field at fault."""

    message: str
    type: str
    param: str | None
    code: str
    x_tenantd: NotRequired[FirstOfKey]


class ErrorBody(TypedDict):
    """The JSON body of an error answer."""

    error: ErrorDetail


class TenantdError(Exception):
    """Base of all errors raised on purpose. `message` is for people and says what to do."""

    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    should_retry: ClassVar[bool] = True
    """Whether clients may retry, sent as `x-should-retry`, which OpenAI's clients obey."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        """Pass the time to retry in seconds or milliseconds; the error then has both, with seconds rounded up."""
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
    """The configuration file or an environment variable is wrong; restarting will not help."""

    code = "config_invalid"
    exit_code = 78


class UnusableFile(TenantdError):
    """A file or folder that a command was given is missing, exists already, or is not what it should be."""

    code = "unusable_file"


class ModelError(TenantdError):
    """The model cannot be served: not a GGUF, truncated, unreadable, or too large for this machine."""

    code = "model_invalid"
    exit_code = 78


class NotEnoughMemory(ModelError):
    """The model does not fit into free memory now, but may later: the machine has enough in total."""


class DaemonNotRunning(TenantdError):
    """Nothing listens on the daemon's socket, or at its address."""

    code = "daemon_not_running"
    exit_code = 69


class AlreadyRunning(TenantdError):
    """Another daemon holds the socket or the state folder."""

    code = "already_running"


class InvalidRequest(TenantdError):
    """The request itself is wrong; retrying will not help."""

    code = "invalid_request"
    type = "invalid_request_error"
    http_status = 400
    exit_code = 2


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output together do not fit the context of a slot, or the tenant's limit on it."""

    code = "context_length_exceeded"

    @classmethod
    def of(cls, prompt_tokens: int, holds_tokens: int, *, at_least: bool = False, tenant: str = "") -> Self:
        """`tenant` is the tenant whose limit it is; "" for the model's. `at_least`: the count is a lower bound.

        The message begins with OpenAI's words: clients such as litellm fall back to a larger model when they see them.
        """
        whose = f" for tenant {tenant}" if tenant else ""
        counted = f"{'at least ' if at_least else ''}{prompt_tokens}"
        return cls(
            f"This model's maximum context length is {holds_tokens} tokens{whose}. However, your prompt resulted in "
            f"{counted} tokens. Prompt and output must fit together: send a shorter prompt.",
            param="prompt",
        )


class SystemPromptTooLong(ContextLengthExceeded):
    """The tenant's system prompt leaves no room in the context, which is smaller than when it was set."""

    code = "system_prompt_too_long"


class MaxTokensPerRequestExceeded(InvalidRequest):
    """The request asks for more output than the tenant's `max_tokens_per_request`."""

    code = "max_tokens_per_request_exceeded"


class PromptOverTokensPerMinute(InvalidRequest):
    """The prompt alone exceeds the tenant's `tokens_per_minute`, so waiting does not help."""

    code = "prompt_exceeds_tokens_per_minute"


class BodyTooLarge(InvalidRequest):
    """The request body is larger than `server.max_body_bytes`."""

    code = "body_too_large"
    http_status = 413


class AnswerTooLarge(InvalidRequest):
    """The answer would take more memory than one tenant can have."""

    code = "answer_too_large"
    http_status = 413


class BodyTimeout(InvalidRequest):
    """The request body stalled for `server.body_timeout_s`."""

    code = "body_timeout"
    type = "timeout_error"
    http_status = 408
    exit_code = 75


class HeadTimeout(InvalidRequest):
    """Request line and headers were not complete within `server.head_timeout_s`."""

    code = "head_timeout"
    type = "timeout_error"
    http_status = 408
    exit_code = 75


class TooManyBodyBytes(TenantdError):
    """A tenant sends more at a time than its share of `server.body_bytes_total`."""

    code = "too_many_body_bytes"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class BodyMemoryFull(TenantdError):
    """The memory for bodies was needed for tenants that use less of it."""

    code = "body_memory_full"
    http_status = 503
    exit_code = 75


class TooManyConnections(TenantdError):
    """A Unix user, an address, a key, or the whole daemon has reached its maximum of connections."""

    code = "too_many_connections"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class Unauthenticated(TenantdError):
    """No identity, or a key that is unknown, expired, revoked or malformed."""

    code = "invalid_api_key"
    type = "authentication_error"
    http_status = 401
    exit_code = 77


class TooManyWrongKeys(Unauthenticated):
    """A wrong key, from an address that has shown many of them."""

    code = "too_many_wrong_keys"
    http_status = 429
    should_retry = False  # another try with the same key does not help


class KeyRevoked(Unauthenticated):
    """The key was valid when the request arrived, but was revoked or has expired since; generated tokens are billed."""

    code = "key_revoked"


class Forbidden(TenantdError):
    """The identity is known but may not do this."""

    code = "forbidden"
    type = "permission_error"
    http_status = 403
    exit_code = 77


class TenantSuspended(Forbidden):
    """The tenant has been suspended by an administrator."""

    code = "tenant_suspended"


class NotFound(TenantdError):
    """No such tenant, key, request, model or route."""

    code = "not_found"
    type = "invalid_request_error"
    http_status = 404


class Conflict(TenantdError):
    """It already exists, or its state does not allow this."""

    code = "conflict"
    type = "invalid_request_error"
    http_status = 409


class CheckRunning(Conflict):
    """Isolation is being checked, by one check at a time."""

    code = "check_running"
    exit_code = 75


class QueueFull(TenantdError):
    """The tenant already has `max_queued` requests waiting; a place should be free after `retry_after_s`."""

    code = "queue_full"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class MaxConcurrentExceeded(QueueFull):
    """The tenant runs its maximum of `max_concurrent` requests, and its queue is full too."""

    code = "max_concurrent_exceeded"


class RequestsPerMinuteExceeded(TenantdError):
    """The tenant has used up its `requests_per_minute`; one more is accepted after `retry_after_ms`."""

    code = "requests_per_minute_exceeded"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class TokensPerMinuteExceeded(TenantdError):
    """The tenant's `tokens_per_minute` leave no room for this prompt until `retry_after_ms` have passed."""

    code = "tokens_per_minute_exceeded"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class InsufficientQuota(TenantdError):
    """A budget of the tenant or its key has no room for this request before its period ends."""

    code = "insufficient_quota"
    type = "insufficient_quota"
    http_status = 429
    exit_code = 75
    should_retry = False  # until the period ends, or an administrator adds to the budget


class BudgetBusy(TenantdError):
    """Running requests hold what is left of a budget; some of it should be free after `retry_after_s`."""

    code = "budget_busy"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class RequestTimeout(TenantdError):
    """The request was not complete within its `timeout_s`; generated tokens are billed."""

    code = "request_timeout"
    type = "timeout_error"
    http_status = 408
    exit_code = 75
    should_retry = False  # the deadline was the client's own, and each try is billed


class Draining(TenantdError):
    """The daemon is shutting down and accepts no new requests."""

    code = "draining"
    http_status = 503
    exit_code = 75


class EngineUnavailable(TenantdError):
    """The engine is loading, or crashed too often in a row; the message has the reason."""

    code = "engine_unavailable"
    http_status = 503
    exit_code = 75


class ModelNotLoaded(EngineUnavailable):
    """The model is still loading, or cannot be loaded; the daemon's log says so already."""


class EngineFailure(TenantdError):
    """The engine could not finish this request; others are not affected."""

    code = "engine_failure"


class GarbledOutput(TenantdError):
    """The model returned NaN or infinity for this request; others are not affected."""

    code = "garbled_output"


class RequestCancelled(TenantdError):
    """The request was ended before its answer was complete, by an administrator for example."""

    code = "cancelled"
    http_status = 503
    exit_code = 75
    should_retry = False  # whoever cancels a request does not want it back, and each try is billed


class CancelledByShutdown(RequestCancelled):
    """The daemon stopped before the answer was complete. The next daemon may answer the request."""

    should_retry = True


class LedgerUnavailable(TenantdError):
    """The ledger cannot be written (disk full, locked, read-only), so nothing new may start unbilled."""

    code = "ledger_unavailable"
    http_status = 503
    exit_code = 75


class LedgerDamaged(LedgerUnavailable):
    """The ledger's file is damaged; restarting does not help, restoring a backup does."""

    exit_code = 78


def key_revoked() -> KeyRevoked:
    """The error that ends requests of a key that was revoked or has expired."""
    return KeyRevoked("this API key was revoked or has expired; ask your administrator for a new one")
