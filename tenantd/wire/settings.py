"""What the scheduler is told once, at its start."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Policy(StrEnum):
    """Who goes first: the tenant with the least usage, or whoever came first (to compare with)."""

    USAGE = "usage"
    FIFO = "fifo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Costs are in units of usage, times in milliseconds.

    `keep_packed`: move decoding sequences together, as KV streams want it (see slots.py). `swap_bytes`: host memory
    for the state of requests that gave way. `burst_credit`: how much less usage a tenant back from idle counts with
    for its first slot and until its first token, there divided by its running requests, so that idle time is worth a
    quick answer and no monopoly.
    """

    policy: Policy = Policy.USAGE
    prompt_token_cost: float = 1.0
    generated_token_cost: float = 2.0
    burst_credit: float = 500.0
    prefill_chunk_tokens: int = 512
    target_step_ms: float = 100.0
    max_stall_ms: float = 250.0
    min_run_tokens: int = 16
    swap_bytes: int = 1 << 30
    keep_packed: bool = True

    @property
    def margin(self) -> float:
        """From so much on, usage is clearly more than that of a tenant of weight 1; keeps requests from thrashing."""
        return self.min_run_tokens * self.generated_token_cost
