"""Checks what a request may ask for: its prompt, its output and a place in the queue. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tenantd.domain import Tenant, TenantState
from tenantd.errors import (
    ContextLengthExceeded,
    EngineUnavailable,
    Forbidden,
    InvalidRequest,
    MaxConcurrentExceeded,
    MaxTokensPerRequestExceeded,
    PromptOverTokensPerMinute,
    QueueFull,
    RequestCancelled,
    TenantdError,
    TenantSuspended,
    key_revoked,
)
from tenantd.limits import BLOCKS, LIMITS
from tenantd.live.registry import Count
from tenantd.tenancy.directory import Directory
from tenantd.wire.messages import EmbeddingInfo

ALLOW_NONE_AT_ZERO: Final = tuple(name for name, limit in LIMITS.items() if limit.at_zero == BLOCKS)


def output_tokens(
    tenant: Tenant, prompt_tokens: int, asked_tokens: int | None, *, context_tokens: int, default_tokens: int
) -> int:
    """The maximum number of tokens to generate: as requested, but no more than fit into the context.

    Raises ContextLengthExceeded if there is no room, MaxTokensPerRequestExceeded, InvalidRequest.
    """
    limits = tenant.limits
    holds_tokens = context_tokens
    whose = ""
    if limits.max_context_tokens is not None and limits.max_context_tokens < context_tokens:
        holds_tokens = limits.max_context_tokens
        whose = tenant.name
    if prompt_tokens >= holds_tokens:
        raise ContextLengthExceeded.of(prompt_tokens, holds_tokens, tenant=whose)
    allowed = limits.max_tokens_per_request
    if asked_tokens is None:
        asked_tokens = default_tokens if allowed is None else min(default_tokens, allowed)
    elif asked_tokens < 1:
        raise InvalidRequest(f"max_tokens: must be at least 1 (got {asked_tokens})", param="max_tokens")
    if allowed is not None and (asked_tokens > allowed or allowed < 1):
        raise MaxTokensPerRequestExceeded(
            f"max_tokens is {asked_tokens}, but tenant {tenant.name} may request at most {allowed} per request",
            param="max_tokens",
        )
    return min(asked_tokens, holds_tokens - prompt_tokens)


def check_texts(tenant: Tenant, texts: Sequence[int], embeddings: EmbeddingInfo | None, field: str = "input") -> None:
    """Checks the lengths of texts to embed. Raises ContextLengthExceeded, EngineUnavailable."""
    if embeddings is None:
        raise EngineUnavailable("the running engine cannot embed texts")
    limit = tenant.limits.max_context_tokens
    most = embeddings.input_tokens if limit is None else min(limit, embeddings.input_tokens)
    for number, tokens in enumerate(texts):
        if tokens > most:
            raise text_too_long(field, number, tokens, most, tenant.name if most == limit else "")


def text_too_long(
    field: str, number: int, tokens: int, most: int, tenant: str = "", *, at_least: bool = False
) -> TenantdError:
    """The error for a text to embed, or for one of `documents` to rank. `tenant` is the tenant whose limit it is; ""
    for the model's."""
    does, together = ("rank", " with the query") if field == "documents" else ("embed", "")
    whose = f"tenant {tenant} may {does}" if tenant else f"this model {does}s"
    return ContextLengthExceeded(
        f"{field}[{number}]{together} has {'at least ' if at_least else ''}{tokens} tokens, but {whose} at most {most} "
        "at a time; send it in parts",
        param=field,
    )


def check_prompt(prompt: list[int]) -> None:
    """Raises InvalidRequest for an empty prompt. Token ids were checked when the prompt was read."""
    if not prompt:
        raise InvalidRequest("the prompt must not be empty", param="prompt")


def check_active(tenant: Tenant) -> None:
    """Raises TenantSuspended."""
    if tenant.state is TenantState.SUSPENDED:
        raise TenantSuspended(f"tenant {tenant.name} is suspended; an administrator can resume it")


def check_allowed(tenant: Tenant, prompt_tokens: int) -> None:
    """Checks that waiting cannot change. Raises Forbidden for a limit of 0, PromptOverTokensPerMinute."""
    limits = tenant.limits
    for name in ALLOW_NONE_AT_ZERO:
        if getattr(limits, name) == 0:
            raise Forbidden(f"tenant {tenant.name} may not run requests: its {name} is 0")
    if limits.tokens_per_minute == 1:
        raise Forbidden(
            f"tenant {tenant.name} may not run requests: its tokens_per_minute is 1, but a prompt needs at least 2: "
            "its last token and the first of the answer"
        )
    if limits.tokens_per_minute is not None and prompt_tokens > limits.tokens_per_minute:
        raise PromptOverTokensPerMinute(
            f"the prompt has {prompt_tokens} tokens, but tenant {tenant.name} may use only {limits.tokens_per_minute} "
            "per minute; send a shorter prompt",
            param="prompt",
        )


def may_wait(
    tenant: Tenant,
    *,
    waiting: int,
    running: int,
    others: int,
    slots: int,
    held: int = 0,
    more: int = 1,
    is_held: bool = False,
) -> bool:
    """Whether `more` requests of the tenant find free slots or places in the queue.

    `waiting` and `running` count its requests without and with a first token, `held` those that wait for its limits per
    minute (as will the new ones if `is_held`), and `others` the requests of other tenants. Requests that find a free
    slot do not wait, so `max_queued` 0 still admits them.
    """
    limits = tenant.limits
    free = max(0, slots - running - others)
    if limits.max_concurrent is not None:
        free = min(free, max(0, limits.max_concurrent - running))
    if is_held:
        held += more
    else:
        waiting += more
    return limits.max_queued is None or max(0, waiting - free) + held <= limits.max_queued


def full_queue(
    tenant: Tenant,
    count: Count,
    held: int,
    *,
    more: int = 1,
    refusal: TenantdError | None = None,
    retry_after_s: int | None = None,
) -> QueueFull:
    """Why there is no place for `more` requests. `held` counts those that wait for limits per minute; with a `refusal`
    the new ones would wait for them too."""
    limits, waiting = tenant.limits, count.waiting + held
    if limits.max_queued == 0:
        what = "has no queue (max_queued is 0)"
    elif waiting:
        what = f"already has {waiting} requests waiting"
    else:
        what = f"may have {limits.max_queued} requests waiting, but sent {more} at once"
    if refusal is not None:
        message = f"tenant {tenant.name} {what}, and {refusal.message}"
        return QueueFull(message, retry_after_ms=refusal.retry_after_ms)
    if limits.max_concurrent is not None and count.running >= limits.max_concurrent:
        return MaxConcurrentExceeded(
            f"tenant {tenant.name} already runs its maximum of {limits.max_concurrent} requests and "
            f"{what}; try again when one has finished",
            retry_after_s=retry_after_s,
        )
    return QueueFull(f"tenant {tenant.name} {what}; try again when one has started", retry_after_s=retry_after_s)


def changed_hands(before: Mapping[str, Tenant], after: Mapping[str, Tenant]) -> list[str]:
    """Names that are nobody's any more, or another tenant's than before, or were nobody's."""
    return [
        name
        for name in {**before, **after}
        if name not in before or name not in after or before[name].id != after[name].id
    ]


def renamed(before: Mapping[str, Tenant], after: Mapping[str, Tenant]) -> list[tuple[str, str]]:
    """Old and new name of tenants that are called otherwise now."""
    names = {tenant.id: name for name, tenant in before.items()}
    return [(old, name) for name, tenant in after.items() if tenant.id and (old := names.get(tenant.id, name)) != name]


def as_it_is(directory: Directory, name: str, tenant_id: int | None, key_id: str | None) -> Tenant:
    """A tenant by now, for a request that came some time ago, with this key if any. Another of its name is not it.

    Raises RequestCancelled if the tenant was removed, KeyRevoked.
    """
    if key_id is not None and not directory.has_key(key_id):
        raise key_revoked()
    tenant = directory.tenants.get(name)
    if tenant is None or tenant.id != tenant_id:
        raise RequestCancelled(f"tenant {name} was removed")
    return tenant
