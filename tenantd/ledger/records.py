"""The records that go into the ledger and come out of it, as plain immutable data."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tenantd.domain import FinishReason, RequestKind, Usage


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A new request. `prompt_length_tokens` is the prompt's length; only computed tokens are billed."""

    id: str
    tenant: str  # its current name
    kind: RequestKind
    model: str
    created_micros: int  # wall clock
    prompt_length_tokens: int
    max_tokens: int
    unbilled: bool = False
    tenant_id: int | None = None  # None only in records set aside under schema 5
    key_id: str | None = None  # None without a key
    uid: int | None = None  # of the process at the other end
    adapter: str = ""  # path of its adapter; "" for none


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. The caller measures durations with a monotonic clock."""

    id: str
    state: FinishReason
    usage: Usage
    first_token_micros: int | None = None  # after its creation; None if there was no token
    duration_micros: int
    error: str = ""
    cause: str = ""  # the code of the error
    queue_micros: int | None = None  # from its creation until it had a slot; None if it never had one
    prefill_micros: int | None = None  # from then until its first token
    kv_token_micros: int = 0  # tokens in slots, times how long they were there
    swaps: int = 0  # how often it gave its slot up


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `state` is "running" or a FinishReason. Until it is settled, amounts are 0 and `price_id` is None.

    `tenant` is the tenant's name at the time of the request, `tenant_id` identifies it.

    Durations are None while it runs, and stay None if the daemon died meanwhile, because nobody measured them.
    `ended_micros` is None while it runs; month, price and budget are those of this moment. If its month was finalised
    before it was settled, it is billed as if it had ended at `billed_micros`, in a later month.
    """

    id: str
    tenant: str
    kind: str
    model: str
    state: str
    created_micros: int
    prompt_length_tokens: int
    max_tokens: int
    prompt_tokens: int
    completion_tokens: int
    engine_micros: int
    first_token_micros: int | None
    duration_micros: int | None
    price_id: int | None
    input_nanos: int
    output_nanos: int
    engine_nanos: int
    error: str
    unbilled: bool = False
    tenant_id: int
    key_id: str | None
    uid: int | None
    adapter: str = ""
    ended_micros: int | None = None
    queue_micros: int | None = None
    prefill_micros: int | None = None
    cached_tokens: int = 0  # of its prompt, not computed because they were cached
    kv_token_micros: int = 0
    swaps: int = 0
    cached_nanos: int = 0
    free_nanos: int = 0
    waived_nanos: int = 0
    cause: str = ""
    free_prompt_tokens: int = 0  # of its tokens, those in the free quota
    free_completion_tokens: int = 0
    billed_micros: int | None = None
    energy_millijoules: int = 0  # of GPUs, if it was measured

    @property
    def list_nanos(self) -> int:
        """What the request would cost without a free quota or a budget."""
        return self.input_nanos + self.cached_nanos + self.output_nanos + self.engine_nanos

    @property
    def cost_nanos(self) -> int:
        """What the request is billed."""
        return 0 if self.unbilled else self.list_nanos - self.free_nanos - self.waived_nanos


class Customer(NamedTuple):
    """Who is charged for a request."""

    tenant_id: int
    key_id: str | None
    unbilled: bool


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """Prices effective from `effective_micros` until those of the next list, of one tenant or of all without their own.

    `follows_general` ends a tenant's own prices. `minimum_nanos` and the free tokens are those of a month.
    `is_configured`: it was made from the configuration file.
    """

    id: int
    currency: str
    input_nanos_per_million: int
    output_nanos_per_million: int
    engine_hour_nanos: int
    effective_micros: int
    cached_nanos_per_million: int = 0
    minimum_nanos: int = 0
    free_prompt_tokens: int = 0
    free_completion_tokens: int = 0
    tenant_id: int | None = None
    follows_general: int = 0
    is_configured: int = 0
    set_micros: int = 0
