"""What the parts of benchmarks/gpu.py share: what is measured, and what is found. Loads no llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenantd.engine_settings import EngineConfig
from tenantd.wire.messages import Load
from tenantd.wire.settings import Settings

CONTEXT_STEP = 256  # llama-context.cpp


@dataclass(frozen=True)
class Setup:
    """What is measured. Lengths are in tokens; `depth` is what sequences hold where KV caches are compared, `swapped`
    the lengths of sequences that are saved and computed again."""

    model: Path
    sequences: tuple[int, ...]
    prompt: int
    output: int
    depth: int
    swapped: tuple[int, ...]
    rounds: int
    run_s: float
    chat_scale: float
    engine: dict[str, Any]  # more settings of [engine]

    @property
    def slots(self) -> int:
        return max(self.sequences)

    @property
    def context(self) -> int:
        """Of a slot, where requests have `prompt` and `output`."""
        return whole(self.prompt + self.output)


def whole(tokens: int) -> int:
    """The next size of a context that llama.cpp does not round."""
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP


@dataclass(frozen=True)
class Found:
    """`lines` are for the page: what, and its figure. `figures` has everything."""

    lines: list[tuple[str, str]]
    figures: dict[str, Any]


def load_message(setup: Setup, slots: int, context_tokens: int, **changed: Any) -> Load:
    """What the daemon would tell its engine with these settings."""
    section = EngineConfig(**{**setup.engine, "slots": slots, "context_tokens": context_tokens, **changed})
    names = ("batch_tokens", "kv", "kv_type", "threads", "gpu_layers", "flash_attention", "swap_bytes")
    return Load(
        backend="llama", model_path=str(setup.model), slots=slots, context_tokens=context_tokens,
        grammar_budget_ms=5000, fake_step_micros=0, fake_token_micros=0, settings=Settings(),
        **{name: getattr(section, name) for name in names},
    )  # fmt: skip


def speed_text(count: int, rate: float) -> str:
    return f"{rate:,.0f} tokens/s, {1000 * count / rate:.2f} ms a pass"
