"""The nouns of the project, as plain immutable data. No I/O, no clock; a tenant's limits are declared in
`tenantd.limits`.

Units end names: `_tokens` counts tokens, `_micros` microseconds, `_nanos` thousand-millionths of one unit of the
billing currency.
"""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from tenantd.limits import LIFTED, LIMITS
from tenantd.limits import Limits as Limits
from tenantd.limits import OnLimit as OnLimit

TENANT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Tenant names are used in URLs, file names and metric labels, so they are kept this plain."""


class Priority(StrEnum):
    """A class of service. It multiplies the weight, so a lower class is slower but never starved."""

    HIGH = "high"
    STANDARD = "standard"
    LOW = "low"

    @property
    def factor(self) -> float:
        """What the weight is multiplied by: 8, 1 or 1/8."""
        return {"high": 8.0, "standard": 1.0, "low": 0.125}[self.value]


class TenantState(StrEnum):
    """Whether new requests of a tenant are taken."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class RequestKind(StrEnum):
    """What was asked for; the `kind` of a row in the ledger."""

    COMPLETION = "completion"
    CHAT = "chat"


class FinishReason(StrEnum):
    """How a request ended. Exactly one per request; also the `state` of its row in the ledger once settled."""

    STOP = "stop"  # end-of-generation token or stop string
    LENGTH = "length"  # max_tokens reached or the slot's context full
    CANCELLED = "cancelled"  # an administrator, its own `timeout_s` or the daemon's shutdown ended it
    DISCONNECTED = "disconnected"  # the client went away
    FAILED = "failed"  # the engine could not do it
    INTERRUPTED = "interrupted"  # the daemon died while it ran; settled at the next start


RUNNING: Final = "running"
"""The `state` of a ledger row between admission and settlement."""


_OwnFields: Any = msgspec.defstruct(
    "_OwnFields", [(name, limit.own_type, None) for name, limit in LIMITS.items()], frozen=True, kw_only=True
)


class OwnLimits(_OwnFields):  # type: ignore[misc]  # its fields are those of `Limits`
    """What a tenant has of its own. None takes the default of all tenants, "none" lifts the limit."""

    def over(self, defaults: Limits) -> Limits:
        """The limits that hold for the tenant."""
        own = {name: value for name in LIMITS if (value := getattr(self, name)) is not None}
        changes: dict[str, Any] = {name: None if value == LIFTED else value for name, value in own.items()}
        return dataclasses.replace(defaults, **changes) if changes else defaults


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A customer of the daemon. `uids` are the Unix users who may act as it over the socket.

    `limits` are those that hold, as `Directory.in_force` puts them together: the ledger knows the tenant's own only.
    In the admin API, where an administrator reads back what was set, the tenant's own are called `limits`.
    """

    id: int | None = None  # given by the ledger, once: a name may change, and be another tenant's later
    name: str
    weight: float = 1.0
    priority: Priority = Priority.STANDARD
    state: TenantState = TenantState.ACTIVE
    uids: tuple[int, ...] = ()
    limits: Limits = msgspec.field(default=Limits(), name="effective_limits")
    own_limits: OwnLimits = msgspec.field(default=OwnLimits(), name="limits")
    adapter: str = ""  # path of the LoRA adapter that all its requests run with
    unbilled: bool = False  # its requests are on no invoice
    allow_special: bool = False  # its plain prompts may spell special tokens, with `parse_special`
    created_micros: int = 0


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: the process at the other end as the kernel knows it, and the key it showed. None: not known, none."""

    uid: int | None = None
    pid: int | None = None
    key_id: str | None = None


NOBODY: Final = Actor()
SEED_VALUES: Final = 0xFFFFFFFF
"""Seeds are below it: llama.cpp takes the number itself (LLAMA_DEFAULT_SEED) for "draw one"."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen. Defaults are llama.cpp's (common/common.h, common_params_sampling).

    `temperature` 0 is greedy. `logprobs` None gives none; n >= 0 gives the chosen token's and the n best.
    `seed` None draws one at random. `grammar` is in llguidance's notation, as `text.grammar` makes it; "" for none.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    grammar: str = ""
    ignore_eos: bool = False


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities under the model's own distribution, before any sampler.

    `top` is the n best (token, logprob), best first; the chosen token need not be among them.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one request consumed so far. `prompt_tokens` counts prompt tokens computed, each once."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_micros: int = 0
