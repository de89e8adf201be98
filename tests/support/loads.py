"""Load commands for engines in tests."""

from __future__ import annotations

from typing import Any

from tenantd.wire.messages import Load
from tenantd.wire.settings import Settings
from tests.support.device import GPU_LAYERS


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
        "gpu_layers": GPU_LAYERS,
        "flash_attention": "auto",
        "swap_bytes": 1 << 30,
        "grammar_budget_ms": 5000,
        "fake_step_micros": 0,
        "fake_token_micros": 0,
        "settings": Settings(),
    }
    return Load(**{**defaults, **changes})
