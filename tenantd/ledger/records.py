"""What goes into the ledger and what comes out of it, as plain immutable data."""

from __future__ import annotations

import msgspec

from tenantd.domain import FinishReason, RequestKind, Usage


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it begins. `prompt_length_tokens` is its length; what is billed is what gets computed of it."""

    id: str
    tenant: str  # the name it has now
    kind: RequestKind
    model: str
    created_micros: int  # wall clock
    prompt_length_tokens: int
    max_tokens: int
    unbilled: bool = False
    tenant_id: int | None = None  # None only in what schema 5 has set aside
    key_id: str | None = None  # None without a key
    uid: int | None = None  # of the process at the other end


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. Durations are the caller's, from a clock that never goes backwards."""

    id: str
    state: FinishReason
    usage: Usage
    first_token_micros: int | None = None  # after its creation; None when there was no token
    duration_micros: int
    error: str = ""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `state` is "running" or a FinishReason; amounts are 0 and `price_id` None until it is settled.

    `tenant` is the name the request came under, `tenant_id` whose it is.

    Durations are None while it runs, and for ever when the daemon died under it: nobody measured them.
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
        """What the request is billed at; its amounts say what it would cost."""
        return 0 if self.unbilled else self.input_nanos + self.output_nanos + self.engine_nanos


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """Prices in force from `effective_micros` until the next list's. The order of lists is that of their ids."""

    id: int
    currency: str
    input_nanos_per_million: int
    output_nanos_per_million: int
    engine_hour_nanos: int
    effective_micros: int
