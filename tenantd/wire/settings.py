"""The settings of the scheduler, each declared once: name, type, default, bounds, description.

`config.SchedulerConfig` is this class with its bounds checked, and `Load` carries it to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Policy(StrEnum):
    """Who goes first: the tenant with the least usage, or whoever came first (to compare with)."""

    USAGE = "usage"
    FIFO = "fifo"


def _setting(default: Any, description: str, **bounds: float) -> Any:
    """A field with pydantic's names for bounds (`ge`, `gt`, `le`). The engine starts without pydantic."""
    return field(default=default, metadata={"description": description, **bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The [scheduler] table of the configuration. Costs are in units of usage.

    `burst_credit` is how much less usage a tenant back from idle counts with for its first slot and until its first
    token, there divided by its running requests, so that idle time is worth a quick answer and no monopoly.
    """

    half_life_s: float = _setting(60.0, "After so long, past usage counts half.", gt=0, le=86_400)
    prompt_token_cost: float = _setting(1.0, "Cost of one prompt token computed.", ge=0, le=1000)
    generated_token_cost: float = _setting(2.0, "Cost of one token generated.", gt=0, le=1000)
    policy: Policy = _setting(Policy.USAGE, "Who goes first: least usage, or first come.")  # noqa: RUF009
    burst_credit: float = _setting(
        500.0, "Head start in usage of a tenant back from idle, for one request.", ge=0, le=1e9
    )
    prefill_chunk_tokens: int = _setting(512, "Most prompt tokens in one step.", ge=1, le=8192)
    target_step_ms: float = _setting(100.0, "Prompts are cut so that a step takes so long.", ge=1, le=60_000)
    max_stall_ms: float = _setting(250.0, "Longest a request waits for others' prompts.", ge=1, le=60_000)
    min_run_tokens: int = _setting(16, "A request gives way only after so many tokens.", ge=1, le=1_000_000)

    @property
    def margin(self) -> float:
        """From so much on, usage is clearly more than that of a tenant of weight 1; keeps requests from thrashing."""
        return self.min_run_tokens * self.generated_token_cost
