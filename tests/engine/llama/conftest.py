"""Fixtures of the tests of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tenantd.engine.llama import locked
from tests.engine.llama.kit import LAYOUTS, Engines
from tests.engine.llama.shapes import Shape
from tests.engine.llama.traces import Watched
from tests.support.tiny_gguf import Architecture, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", context_length=1024)


@pytest.fixture
def make(tiny_model: Path) -> Iterator[Engines]:
    engines = Engines(tiny_model)
    yield engines
    engines.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_tiny_gguf(folder / f"{name}.gguf", architecture=name, context_length=1024, is_packed=False)
        for name in get_args(Architecture)
    }


@pytest.fixture(params=[(name, kv) for name in get_args(Architecture) for kv in LAYOUTS], ids="-".join)
def shape(request: pytest.FixtureRequest, models: dict[str, Path]) -> Iterator[Shape]:
    name, kv = request.param
    engines = Engines(models[name])
    yield Shape(name, kv, engines, models[name])
    engines.close()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr(locked.mmap, "mmap", Watched)
    Watched.closed_with.clear()
    return Watched.closed_with
