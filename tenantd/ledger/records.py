"""The records that go into the ledger and come out of it, as plain immutable data."""

from __future__ import annotations

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


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. The caller measures durations with a monotonic clock."""

    id: str
    state: FinishReason
    usage: Usage
    first_token_micros: int | None = None  # after its creation; None if there was no token
    duration_micros: int
    error: str = ""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `state` is "running" or a FinishReason. Until it is settled, amounts are 0 and `price_id` is None.

    `tenant` is the tenant's name at the time of the request, `tenant_id` identifies it.

    Durations are None while it runs, and stay None if the daemon died meanwhile, because nobody measured them.
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

    @property
    def cost_nanos(self) -> int:
        """What the request is billed; its amounts tell what it would cost."""
        return 0 if self.unbilled else self.input_nanos + self.output_nanos + self.engine_nanos


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """Prices effective from `effective_micros` until those of the next list. Lists are ordered by id."""

    id: int
    currency: str
    input_nanos_per_million: int
    output_nanos_per_million: int
    engine_hour_nanos: int
    effective_micros: int
