"""Load commands for engines in tests."""

from __future__ import annotations

from typing import Any

from tenantd.wire.messages import Load


def fake_load(**changes: Any) -> Load:
    """A small engine without a model."""
    return make_load(**{"backend": "fake", "model_path": "", "context_tokens": 512, **changes})


def make_load(**changes: Any) -> Load:
    """Any engine; `backend` and `model_path` are the caller's."""
    defaults: dict[str, Any] = {
        "slots": 4,
        "context_tokens": 256,
        "batch_tokens": 64,
        "kv": "streams",
        "threads": 1,
        "gpu_layers": 0,
        "flash_attention": "auto",
        "half_life_s": 60.0,
        "prompt_token_cost": 1.0,
        "generated_token_cost": 2.0,
        "prefill_chunk_tokens": 32,
    }
    return Load(**{**defaults, **changes})
