from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantd.text.vocabulary import LlamaVocabulary
from tests.support.models import gemma_path
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Iterator[LlamaVocabulary]:
    """Puts a space before each text, as SentencePiece models do unless told otherwise."""
    vocabulary = LlamaVocabulary.open(tiny_path)
    yield vocabulary
    vocabulary.close()


@pytest.fixture(scope="session")
def tiny_without_space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaVocabulary]:
    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", add_space_prefix=False)
    vocabulary = LlamaVocabulary.open(path)
    yield vocabulary
    vocabulary.close()


@pytest.fixture(scope="session")
def gemma() -> Iterator[LlamaVocabulary]:
    vocabulary = LlamaVocabulary.open(gemma_path())
    yield vocabulary
    vocabulary.close()
