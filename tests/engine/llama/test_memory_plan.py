"""What a model will take before it is loaded: how much context is chosen, and what types of keys and values change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tenantd.engine.compute import Chunk
from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp import devices
from tenantd.llamacpp.memory_plan import MemoryPlan, plan_memory
from tests.engine.llama.kit import GREEDY, LAYOUTS, Engines, prompt
from tests.support.device import needs_cpu, set_memory
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
    set_memory(monkeypatch, 1 << 40)
    whole = plan(wide_model, kv=kv)
    assert whole.context_tokens == whole.train_context_tokens == TRAINED
    least = plan(wide_model, kv=kv, context_tokens=4096)
    set_memory(monkeypatch, whole.weights + 2 * (whole.kv + whole.compute) + 4)
    assert plan(wide_model, kv=kv).context_tokens == TRAINED
    chosen = []
    for part in (0.9, 0.6, 0.4):
        free = whole.weights + int(2 * part * (whole.kv + whole.compute))
        set_memory(monkeypatch, free)
        at = plan(wide_model, kv=kv)
        assert 2 * (at.kv + at.compute) <= free - at.weights
        more = plan(wide_model, kv=kv, context_tokens=at.context_tokens + 1024)
        assert 2 * (more.kv + more.compute) > free - at.weights, "it is the largest that fits"
        chosen.append(at.context_tokens)
    assert TRAINED > chosen[0] > chosen[1] > chosen[2] >= 4096
    set_memory(monkeypatch, least.needed + 1)
    assert plan(wide_model, kv=kv).context_tokens == 4096, "not less, although it is more than half"
    set_memory(monkeypatch, least.needed - MIB)
    with pytest.raises(NotEnoughMemory, match=r'slots of 4096 tokens.*engine\.kv_type to "q8_0" or "q4_0"'):
        plan(wide_model, kv=kv)


def test_a_context_that_is_tried_in_small_is_chosen_alike(wide_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of large contexts are extrapolated."""
    measured = plan(wide_model)
    free = measured.weights + int(1.1 * (measured.kv + measured.compute))
    set_memory(monkeypatch, free)
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


@needs_cpu
def test_what_paused_requests_and_cached_prompts_take_is_in_the_same_sum(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 1 << 40
    monkeypatch.setattr(devices, "host_memory", lambda: (total, total))
    settings = {"context_tokens": 4096, "swap_bytes": 3 << 30, "cache_bytes": 5 << 30}
    without, planned = plan(wide_model, **settings), plan(wide_model, has_caches=True, **settings)
    assert (without.swap, without.cache) == (3 << 30, 0), "nobody has a cache"
    assert (planned.swap, planned.cache) == (3 << 30, 5 << 30)
    assert planned.most_in_host == planned.needed + (8 << 30) and planned.host_total == total
    total = planned.most_in_host
    assert plan(wide_model, has_caches=True, **settings) == replaced(planned, total)
    total -= 1
    said = r"wide.gguf needs \d+ MiB, paused requests may take 3,072 MiB .*swap_bytes.* and cached prompts 5,120 MiB"
    with pytest.raises(ModelError, match=said):
        plan(wide_model, has_caches=True, **settings)
    assert plan(wide_model, **settings).cache == 0


def replaced(planned: MemoryPlan, total: int) -> MemoryPlan:
    return dataclasses.replace(planned, free=total, total=total, host_free=total, host_total=total)


@needs_cpu
def test_what_paused_requests_may_take_by_default_gives_way_and_the_context_to_what_is_asked_for(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = plan(wide_model, context_tokens=4096)
    total = least.needed + 100 * MIB
    monkeypatch.setattr(devices, "host_memory", lambda: (total, total))
    assert plan(wide_model, context_tokens=4096, swap_bytes=1 << 30).swap == 100 * MIB
    assert plan(wide_model, context_tokens=4096, swap_bytes=50 * MIB).swap == 50 * MIB
    whole = plan(wide_model, context_tokens=TRAINED)
    total = 3 * whole.needed
    assert plan(wide_model).context_tokens == TRAINED
    smaller = plan(wide_model, has_caches=True, cache_bytes=total - whole.needed + MIB)
    assert 4096 <= smaller.context_tokens < TRAINED, "so that all fits"


def test_on_a_gpu_only_what_is_kept_outside_it_is_the_hosts(wide_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = devices.Gpu("gpu", 1 << 40, 1 << 40)
    monkeypatch.setattr(devices, "gpus", lambda: [gpu])
    monkeypatch.setattr(devices, "host_memory", lambda: (5 << 30, 6 << 30))
    settings = {"context_tokens": 4096, "has_caches": True, "cache_bytes": 2 << 30}
    planned = plan(wide_model, gpu_layers=-1, swap_bytes=4 << 30, **settings)
    assert planned.most_in_host == 6 << 30 == planned.host_total and planned.free == 1 << 40
    with pytest.raises(ModelError, match=r"^paused requests may take 5,120 MiB .* only 6,144 MiB of memory"):
        plan(wide_model, gpu_layers=-1, swap_bytes=5 << 30, **settings)
    part = plan(wide_model, gpu_layers=1, swap_bytes=5 << 30, **settings)
    assert part.is_in_host and part.host_total == (1 << 40) + (6 << 30)


@pytest.mark.parametrize("kv", LAYOUTS)
def test_a_cached_prompt_takes_what_is_said(wide_model: Path, make: Engines, kv: str) -> None:
    engine = make(model_path=str(wide_model), kv=kv, context_tokens=512, batch_tokens=512)
    for tokens, said in ((256, engine.info.short_state_bytes), (512, engine.info.state_bytes)):
        engine.bind(0, GREEDY, [], [], request=1)
        engine.run([Chunk(0, 0, prompt(tokens, seed=3), False, 1)])
        parked = engine.park(0, 1, 5)
        assert parked.size_bytes == pytest.approx(said, rel=0.1)
        engine.clear(0)
