"""Fixtures of the tests of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.llama.kit import Engines
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", context_length=1024)


@pytest.fixture
def make(tiny_model: Path) -> Iterator[Engines]:
    engines = Engines(tiny_model)
    yield engines
    engines.close()
