"""What a model and its KV cache will take, as `memory_plan` adds it up; here without llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All in bytes but `context_tokens`, the context of a slot, and `train_context_tokens`, the model's (0: unknown).

    `free` and `total` are of where the model is put: the GPUs, or the host. `swap` and `cache` are what paused requests
    and cached prompts may take in the host's memory as they fill it. `host_free` and `host_total` include the GPUs' if
    the model is in both. `cache` is 0 if it is off by default. `state` is the state of a slot whose context is full,
    `short_state` of one with SHORT_PROMPT_TOKENS. `embeddings` is what embedding texts takes, with the
    weights of a model of its own; `projector`, what understanding images takes, about.
    """

    context_tokens: int
    train_context_tokens: int
    weights: int
    kv: int
    compute: int
    free: int
    total: int
    swap: int
    cache: int
    host_free: int
    host_total: int
    is_in_host: bool  # the model, or a part of it
    state: int
    short_state: int
    embeddings: int = 0
    projector: int = 0

    @property
    def most_in_host(self) -> int:
        """What will be in the host's memory once paused requests and cached prompts have filled their part."""
        return self.swap + self.cache + (self.needed if self.is_in_host else 0)

    @property
    def needed(self) -> int:
        """Weights, KV cache and work space, and what embeddings and images take."""
        return self.weights + self.kv + self.compute + self.embeddings + self.projector
