"""Every engine: one without a model, and llama.cpp in both KV layouts, with and without scrubbing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantd.engine.compute import Compute
from tenantd.engine.fake import FakeCompute
from tests.support.loads import fake_load, make_load
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(params=["fake", "llama-streams", "llama-unified", "llama-streams-scrub", "llama-unified-scrub"])
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Compute]:
    if request.param == "fake":
        compute: Compute = FakeCompute(fake_load())
    else:
        from tenantd.engine.llama import LlamaCompute

        _, kv, *scrub = request.param.split("-")
        load = make_load(backend="llama", model_path=str(tiny_model), kv=kv, scrub=bool(scrub))
        compute = LlamaCompute(load, lambda _: None)
    yield compute
    compute.close()


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_lora(tmp_path_factory.mktemp("adapter") / "lora.gguf"))
