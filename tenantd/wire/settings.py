"""The scheduler's settings, each declared once with its type, default, bounds and description.

`config.SchedulerConfig` is this class with its bounds checked, and `Load` carries it to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Policy(StrEnum):
    """Who goes first: the tenant with the least usage, or the oldest request (as a baseline)."""

    USAGE = "usage"
    FIFO = "fifo"


def _setting(default: Any, description: str, *, strict: bool = True, **bounds: float) -> Any:
    """A field whose metadata have pydantic's names (bounds are `ge`, `gt`, `le`); the engine runs without pydantic.

    `strict` is false for a type that TOML does not have, to which a string is converted.
    """
    return field(default=default, metadata={"description": description, "strict": strict, **bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The [scheduler] table of the configuration. Costs are in units of usage.

    `burst_credit` is subtracted from the usage of a tenant back from idle: in full for its first slot, then divided by
    its running requests until its first token. Idle time thus earns a quick answer but not a monopoly, and a credit
    that was used refills only with time (see jobs.py).
    """

    half_life_s: float = _setting(60.0, "Half-life of past usage.", gt=0, le=86_400)
    prompt_token_cost: float = _setting(1.0, "Usage charged for computing one prompt token.", ge=0, le=1000)
    cached_token_cost: float = _setting(
        0.1, "Usage charged for a prompt token that was cached instead of computed.", ge=0, le=1000
    )
    generated_token_cost: float = _setting(2.0, "Usage charged for generating one token.", gt=0, le=1000)
    policy: Policy = _setting(  # noqa: RUF009
        Policy.USAGE, "Least usage first, or first come, first served.", strict=False
    )
    burst_credit: float = _setting(
        500.0,
        "Head start, in usage, for one request of a tenant that was idle. The prompt tokens computed with it use it "
        "up; it refills in half of half_life_s.",
        ge=0,
        le=1e9,
    )
    prefill_chunk_tokens: int = _setting(512, "Maximum prompt tokens in one step.", ge=1, le=8192)
    target_step_ms: float = _setting(
        100.0,
        "Longest step while a recently active tenant may return; prompts are split to fit. Otherwise, a step may take "
        "max_stall_ms, or four times that if it computes the only request there is.",
        ge=1,
        le=60_000,
    )
    target_itl_high_ms: float = _setting(25.0, "Like target_itl_ms, for tenants with high priority.", ge=1, le=60_000)
    target_itl_ms: float = _setting(
        50.0,
        "Pace of a stream: it gets a token this often while prompts of tenants that have used more are computed. A "
        "lower value makes answers faster beside long prompts, and long prompts slower.",
        ge=1,
        le=60_000,
    )
    target_itl_low_ms: float = _setting(150.0, "Like target_itl_ms, for tenants with low priority.", ge=1, le=60_000)
    max_stall_ms: float = _setting(
        250.0,
        "Time that prompts may hold up generation, or the reverse, plus up to 1.5 × target_step_ms, because a pass "
        "is not cut short for little. No stream's pace is slower than this.",
        ge=1,
        le=60_000,
    )
    min_run_tokens: int = _setting(
        16, "Do not pause a request that has begun before it has run this many tokens.", ge=1, le=1_000_000
    )
