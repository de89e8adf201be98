"""What the memory plan and the start-up line say of where a model is, against what llama.cpp reports of its buffers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tenantd import banner
from tenantd.llamacpp import devices, log
from tenantd.llamacpp.memory_plan import MemoryPlan, plan_memory
from tests.engine.llama.kit import LAYOUTS, Engines
from tests.support.device import GPU_LAYERS
from tests.support.loads import make_load

MIB = 1 << 20
BUFFER = re.compile(r"(\S+) (model|KV|compute) buffer size = +([\d.]+) MiB")
ROUNDED = 0.01 * MIB


def loaded(make: Engines, model: Path, **changes: Any) -> tuple[MemoryPlan, Counter[tuple[str, str]], Any]:
    """What was planned, the bytes that were taken by place and use, and what the engine says of itself."""
    settings = {"model_path": str(model), "context_tokens": 512, **changes}
    planned = plan_memory(make_load(backend="llama", **settings), model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "forget", lambda: None)  # all lines of the load are kept
        log._lines.clear()
        patch.setattr("tenantd.engine.llama.loading.plan_memory", lambda load, path: planned)
        info = make(**settings).info
    taken: Counter[tuple[str, str]] = Counter()
    for place, use, size in BUFFER.findall("\n".join(log.lines())):
        taken[place, use] += round(float(size) * MIB)
    return planned, taken, info


@pytest.mark.parametrize("kv", LAYOUTS)
@pytest.mark.parametrize("scrub", [False, True])
def test_what_was_planned_is_what_is_taken(make: Engines, tiny_model: Path, kv: str, scrub: bool) -> None:
    planned, taken, info = loaded(make, tiny_model, kv=kv, scrub=scrub)

    def of(use: str) -> int:
        return sum(size for (_, what), size in taken.items() if what == use)

    assert of("KV") == pytest.approx(planned.kv, abs=ROUNDED) == info.kv_bytes
    assert of("compute") == pytest.approx(planned.compute, abs=2 * ROUNDED)
    assert of("model") == pytest.approx(planned.weights, abs=3 * ROUNDED)


def test_all_layers_are_where_the_start_up_line_says(make: Engines, tiny_model: Path) -> None:
    _, taken, info = loaded(make, tiny_model)
    line = banner.ready_line("tiny", info)
    on_host = {place for place, use in taken if place.startswith("CPU") and use != "compute"}
    on_device = {place for place, _ in taken if not place.startswith("CPU") and not place.endswith("_Host")}
    if GPU_LAYERS:
        (gpu,) = devices.gpus()
        assert f"{gpu.description}, 3 of 3 layers offloaded" in line
        assert len(on_device) == 1 and {use for place, use in taken if place in on_device} == {"model", "KV", "compute"}
        assert not any(use == "KV" for place, use in taken if place in on_host)
    else:
        assert "CPU, 0 of 3 layers offloaded" in line
        assert not on_device
