"""The project's data types: plain and immutable, without I/O or a clock. `tenantd.limits` declares the limits.

Names end with units: `_tokens`, `_micros` (microseconds), `_nanos` (billionths, 1e-9, of the currency unit).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from tenantd.errors import TokenUsage
from tenantd.limits import LIFTED, LIMITS
from tenantd.limits import Limits as Limits
from tenantd.limits import OnLimit as OnLimit
from tenantd.samplers import SAMPLERS

TENANT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Tenant names appear in URLs, file names and metric labels, so they are kept simple."""


class Priority(StrEnum):
    """Class of service. It multiplies the weight, so a lower class is slower but never starves."""

    HIGH = "high"
    STANDARD = "standard"
    LOW = "low"

    @property
    def factor(self) -> float:
        """Multiplies the weight: 8, 1 or 1/8."""
        return {"high": 8.0, "standard": 1.0, "low": 0.125}[self.value]

    @property
    def tier(self) -> Tier:
        """What OpenAI's clients call it: their `service_tier`."""
        return _TIERS[self.value]


Tier = Literal["priority", "default", "flex"]
_TIERS: Final[dict[str, Tier]] = {"high": "priority", "standard": "default", "low": "flex"}


class TenantState(StrEnum):
    """Whether a tenant may send new requests."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class OnAnomaly(StrEnum):
    """What happens to a tenant whose requests look like an attempt to copy the model."""

    LOG = "log"  # only told: audit entry, metric, log line
    THROTTLE = "throttle"  # an eighth of its weight until an administrator clears it
    SUSPEND = "suspend"  # no new requests until an administrator resumes it


class Scope(StrEnum):
    """What an API key may be used for."""

    RUN = "run"  # send requests, and what READ allows
    READ = "read"  # see the model, and its tenant's queue, usage, limits, requests and invoices
    ADMIN = "admin"  # administer; only for keys without a tenant


class CacheUse(StrEnum):
    """Whether a tenant's prompts are cached between its requests."""

    DEFAULT = "default"  # as `cache.default` says
    ON = "on"
    OFF = "off"


class IsolationCheck(StrEnum):
    """The checks of the isolation between tenants, in the order in which they are shown."""

    LOGITS = "logits"  # what others' requests contain does not change a request's logits, or the vectors of its texts
    CANARIES = "canaries"  # planted text does not surface in others' answers
    RELEASED = "released"  # a sequence that was released holds nothing
    TIMING = "timing"  # what others have sent does not show in the time to the first token
    IDENTITY = "identity"  # calls under a false identity are refused


class Verdict(StrEnum):
    """The result of a check."""

    HELD = "held"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"  # nothing was found, but something might have been missed

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """The result of several together: the worst of theirs."""
        found = set(verdicts)
        return next((each for each in (cls.FAILED, cls.INCONCLUSIVE) if each in found), cls.HELD)


class BudgetUnit(StrEnum):
    """What a budget limits."""

    MONEY = "money"  # in nano-units of the currency
    TOKENS = "tokens"  # of prompts and answers, as in an answer's `usage.total_tokens`
    ENGINE = "engine"  # microseconds of engine time


class RequestKind(StrEnum):
    """What was asked for; the `kind` of a row in the ledger."""

    COMPLETION = "completion"
    CHAT = "chat"
    EMBEDDING = "embedding"


class FinishReason(StrEnum):
    """How a request ended. Also the `state` of its settled row in the ledger."""

    STOP = "stop"  # end-of-generation token or stop string
    LENGTH = "length"  # max_tokens reached or the slot's context full
    CANCELLED = "cancelled"  # by an administrator, its own `timeout_s` or the daemon's shutdown
    DISCONNECTED = "disconnected"  # the client disconnected
    FAILED = "failed"  # the engine failed to run it
    INTERRUPTED = "interrupted"  # the daemon died while it ran; settled at the next start


class Breach(StrEnum):
    """Where an answer was found to be another request's."""

    ENGINE = "engine"  # it reported a binding that is not the request's
    CONNECTION = "connection"  # it was about to be written to somebody else


RUNNING: Final = "running"
"""The `state` of a ledger row between admission and settlement."""


_OwnFields: Any = msgspec.defstruct(
    "_OwnFields", [(name, limit.own_type, None) for name, limit in LIMITS.items()], frozen=True, kw_only=True
)


class OwnLimits(_OwnFields):  # type: ignore[misc]  # its fields are those of `Limits`
    """A tenant's own limits. None means the default of all tenants, "none" removes the limit."""

    def over(self, defaults: Limits) -> Limits:
        """The tenant's effective limits."""
        own = {name: value for name in LIMITS if (value := getattr(self, name)) is not None}
        changes: dict[str, Any] = {name: None if value == LIFTED else value for name, value in own.items()}
        return dataclasses.replace(defaults, **changes) if changes else defaults


class BillingDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a tenant's invoices are addressed to. All may be empty; only the address has several lines."""

    name: str = ""
    address: str = ""
    email: str = ""
    tax_id: str = ""
    reference: str = ""  # the customer's, such as a purchase order


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A customer of the daemon. `uids` are the Unix users that may act for it over the socket.

    `limits` and `is_cached` are what is in effect, computed by `Directory.in_force`; the ledger stores only the
    tenant's own. The admin API calls the tenant's own limits `limits`, so that an administrator reads back what was
    set.
    """

    id: int | None = None  # given by the ledger, once: a name may change, and be another tenant's later
    name: str
    weight: float = 1.0
    priority: Priority = Priority.STANDARD
    state: TenantState = TenantState.ACTIVE
    uids: tuple[int, ...] = ()
    limits: Limits = msgspec.field(default=Limits(), name="effective_limits")
    own_limits: OwnLimits = msgspec.field(default=OwnLimits(), name="limits")
    adapter: str = ""  # path of the LoRA adapter for all its requests
    unbilled: bool = False  # its requests appear on no invoice
    allow_special: bool = False  # its plain prompts may contain special tokens, with `parse_special`
    system_prompt: str = ""  # put before its chats by the server; requests cannot see or replace it
    system_in_completions: bool = False  # put it before plain prompts, too
    on_anomaly: OnAnomaly = OnAnomaly.LOG
    cache: CacheUse = CacheUse.DEFAULT
    is_cached: bool = msgspec.field(default=False, name="effective_cache")
    throttled_micros: int | None = None  # since when it has an eighth of its weight; None if it has all of it
    billing: BillingDetails = BillingDetails()
    created_micros: int = 0


class Part(StrEnum):
    """A part of the daemon that acts by itself."""

    ANOMALY_WATCH = "anomaly watch"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: the process at the other end as the kernel knows it, or its address on TCP, and the key it showed.
    None: not known, none.

    `part` is the part of the daemon that acts by itself.
    """

    uid: int | None = None
    pid: int | None = None
    key_id: str | None = None
    part: Part | None = None
    address: str | None = None


NOBODY: Final = Actor()
WATCH: Final = Actor(part=Part.ANOMALY_WATCH)
SEED_VALUES: Final = 0xFFFFFFFF
"""Seeds are below this value, which llama.cpp reserves for a random seed (LLAMA_DEFAULT_SEED)."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose the next token. Defaults, also of the configuration, are those of `tenantd.samplers`.

    `temperature` 0 is greedy. `logprobs` None returns none; n >= 0 returns the chosen token's and the n best.
    `seed` None means random. `grammar` is in llguidance's notation, as produced by `text.grammar`; "" for none.
    """

    temperature: float = SAMPLERS["temperature"].default
    top_k: int = SAMPLERS["top_k"].default
    top_p: float = SAMPLERS["top_p"].default
    min_p: float = SAMPLERS["min_p"].default
    typical_p: float = SAMPLERS["typical_p"].default
    repeat_penalty: float = SAMPLERS["repeat_penalty"].default
    repeat_last_n: int = SAMPLERS["repeat_last_n"].default
    presence_penalty: float = SAMPLERS["presence_penalty"].default
    frequency_penalty: float = SAMPLERS["frequency_penalty"].default
    seed: int | None = None
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    grammar: str = ""
    ignore_eos: bool = False


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities under the model's own distribution, before any sampler.

    `top` holds the n best (token, logprob), best first; the chosen token may be missing from it.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


class Sketch(msgspec.Struct, frozen=True, kw_only=True):
    """Keyed hashes of a prompt, by `tenantd.text.sketches`. The prompt cannot be read back from it.

    `digest` has 64 bits and tells prompts apart, `simhash` has 64 of which similar prompts share most. `features` are
    64 bytes, random features of its pairs of tokens; `vocabulary` 128, the registers of a HyperLogLog of its tokens.
    """

    digest: int
    simhash: int
    features: tuple[int, ...]
    vocabulary: tuple[int, ...]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a request has used so far. `prompt_tokens` counts each computed prompt token once, `cached_tokens` those of
    its prompt that need not be computed because they were cached. Energy is that of GPUs, 0 if it is not measured."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_micros: int = 0
    cached_tokens: int = 0
    energy_millijoules: int = 0

    @property
    def tokens(self) -> int:
        """All of them, as in an answer's `usage.total_tokens`."""
        return self.prompt_tokens + self.cached_tokens + self.completion_tokens


def as_billed(usages: Iterable[Usage]) -> TokenUsage:
    """`usage` of several choices, as clients see it; it matches the sum of their rows in the ledger."""
    prompt = cached = completion = 0
    for usage in usages:
        prompt += usage.prompt_tokens + usage.cached_tokens
        cached += usage.cached_tokens
        completion += usage.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
