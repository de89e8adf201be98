"""What a model will take before it is loaded: how much context is chosen, and what types of keys and values change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tenantd.engine.compute import Chunk
from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp import devices
from tenantd.llamacpp.memory_plan import MemoryPlan, plan_memory
from tests.engine.llama.kit import GREEDY, LAYOUTS, Engines, prompt
from tests.support.loads import make_load
from tests.support.tiny_gguf import write_tiny_gguf

TRAINED = 20_000
MIB = 1 << 20


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32 values, as blocks of quantised types have."""
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "wide.gguf", context_length=TRAINED, heads=2)


def plan(model: Path, **changes: Any) -> MemoryPlan:
    return plan_memory(make_load(backend="llama", model_path=str(model), **{"context_tokens": 0, **changes}), model)


@pytest.mark.parametrize("kv", LAYOUTS)
def test_the_context_is_the_models_own_as_far_as_half_of_the_free_memory_goes(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch, kv: str
) -> None:
    free = 0
    monkeypatch.setattr(devices, "host_memory", lambda: (free, 1 << 50))
    free = 1 << 40
    whole = plan(wide_model, kv=kv)
    assert whole.context_tokens == whole.train_context_tokens == TRAINED
    least = plan(wide_model, kv=kv, context_tokens=4096)
    free = whole.weights + 2 * (whole.kv + whole.compute) + 4
    assert plan(wide_model, kv=kv).context_tokens == TRAINED
    chosen = []
    for part in (0.9, 0.6, 0.4):
        free = whole.weights + int(2 * part * (whole.kv + whole.compute))
        at = plan(wide_model, kv=kv)
        assert 2 * (at.kv + at.compute) <= free - at.weights
        more = plan(wide_model, kv=kv, context_tokens=at.context_tokens + 1024)
        assert 2 * (more.kv + more.compute) > free - at.weights, "it is the largest that fits"
        chosen.append(at.context_tokens)
    assert TRAINED > chosen[0] > chosen[1] > chosen[2] >= 4096
    free = least.needed + 1
    assert plan(wide_model, kv=kv).context_tokens == 4096, "not less, although it is more than half"
    free = least.needed - MIB
    with pytest.raises(NotEnoughMemory, match=r'slots of 4096 tokens.*engine\.kv_type to "q8_0" or "q4_0"'):
        plan(wide_model, kv=kv)


def test_a_context_that_is_tried_in_small_is_chosen_alike(wide_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of large contexts are extrapolated."""
    measured = plan(wide_model)
    free = measured.weights + int(1.1 * (measured.kv + measured.compute))
    monkeypatch.setattr(devices, "host_memory", lambda: (free, 1 << 50))
    exact = plan(wide_model)
    monkeypatch.setattr("tenantd.llamacpp.memory_plan.QUICK_CELLS", 4 * 4096)
    assert abs(plan(wide_model).context_tokens - exact.context_tokens) <= 1024


@pytest.mark.parametrize(("kv_type", "bits"), [("f16", 16), ("q8_0", 8.5), ("q4_0", 4.5)])
def test_smaller_types_take_less_and_it_is_what_was_planned(
    wide_model: Path, make: Engines, kv_type: str, bits: float
) -> None:
    planned = plan(wide_model, context_tokens=4096, kv_type=kv_type)
    engine = make(model_path=str(wide_model), context_tokens=4096, kv_type=kv_type)
    assert engine.info.kv_type == kv_type
    values = 4 * 4096 * 2 * 2 * 32  # cells, layers, K and V, width
    assert engine.info.kv_bytes == planned.kv == pytest.approx(values * bits / 8, rel=0.01)  # logged in 0.01 MiB


@pytest.mark.parametrize("kv", LAYOUTS)
@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_a_paused_request_resumes_at_the_next_token_with_every_type(
    wide_model: Path, make: Engines, kv: str, kv_type: str
) -> None:
    engine = make(model_path=str(wide_model), kv=kv, kv_type=kv_type)
    words = prompt(40, seed=3)

    def answer(*, pauses: bool) -> list[int]:
        engine.bind(0, GREEDY, words, [], "", request=1)
        tokens = [engine.run([Chunk(0, 0, words, True, 1)]).sampled[0].token]
        for _ in range(20):
            if pauses:
                swapped = engine.swap_out(0, 1 << 30)
                assert engine.swap_in(0, swapped, 1)
            chunk = Chunk(0, len(words) + len(tokens) - 1, [tokens[-1]], True, 1)
            tokens.append(engine.run([chunk]).sampled[0].token)
        engine.clear(0)
        return tokens

    assert answer(pauses=True) == answer(pauses=False)


def test_a_type_that_does_not_work_is_refused_with_the_reason(wide_model: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r'kv_type = "q4_0" does not work here: K cache type q4_0 .*; set it to "f16"'):
        plan(tiny_model, kv_type="q4_0")  # heads of 16 values
    with pytest.raises(ModelError, match=r'requires flash_attn.*; set it to "f16", or engine.flash_attention to "on"'):
        plan(wide_model, kv_type="q8_0", flash_attention="off")
