"""Embedding with llama.cpp: what is refused before anything is computed, and what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk
from tenantd.engine.llama import LlamaCompute
from tenantd.errors import ModelError
from tenantd.llamacpp.memory_plan import plan_memory
from tenantd.text.vocabulary import LlamaVocabulary
from tenantd.wire.messages import Load, LoadEmbeddings
from tests.support.loads import make_load
from tests.support.tiny_bert import write_tiny_bert
from tests.support.tiny_gguf import write_tiny_gguf


def load_of(model: Path, *, own: Path | str = "", pooling: str = "model", input_tokens: int = 512) -> Load:
    embeddings = LoadEmbeddings(model_path=str(own), pooling=pooling, input_tokens=input_tokens)
    return make_load(backend="llama", model_path=str(model), embeddings=embeddings)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def test_texts_are_no_longer_than_the_model_was_trained_for_and_are_counted_in_the_plan(
    model: Path, tmp_path: Path
) -> None:
    bert = write_tiny_bert(tmp_path / "bert.gguf", context_length=48)
    compute = LlamaCompute(load_of(model, own=bert), lambda _: None)
    info = compute.info.embeddings
    compute.close()
    assert info is not None
    assert (info.dimensions, info.input_tokens) == (64, 48)
    assert info.model_bytes > 100_000
    plain = plan_memory(make_load(backend="llama", model_path=str(model)), model)
    with_texts = plan_memory(load_of(model, own=bert), model)
    assert plain.embeddings == 0
    assert with_texts.needed >= plain.needed + info.model_bytes + info.work_bytes
    own = plan_memory(load_of(model, pooling="mean"), model)
    assert own.embeddings > 512 * 4 * 64, "no second copy of the weights, but room for results"


def test_a_model_that_does_not_tell_how_to_pool_is_refused_unless_the_configuration_does(
    model: Path, tmp_path: Path
) -> None:
    silent = write_tiny_bert(tmp_path / "silent.gguf", has_pooling=False)
    with pytest.raises(ModelError, match='set it to "mean", "cls" or "last"'):
        LlamaCompute(load_of(model, own=silent), lambda _: None)
    LlamaCompute(load_of(model, own=silent, pooling="cls"), lambda _: None).close()


def test_a_model_without_a_head_that_ranks_is_refused_because_its_scores_would_mean_nothing(
    model: Path, tmp_path: Path
) -> None:
    bert = write_tiny_bert(tmp_path / "bert.gguf")
    with pytest.raises(ModelError, match="has no classification head"):
        LlamaCompute(load_of(model, own=bert, pooling="rank"), lambda _: None)
    ranker = write_tiny_bert(tmp_path / "ranker.gguf", ranks=True)
    compute = LlamaCompute(load_of(model, own=ranker), lambda _: None)
    info = compute.info.embeddings
    compute.close()
    assert info is not None and (info.ranks, info.dimensions) == (True, 1)


def test_a_file_that_is_missing_is_named_with_its_setting(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such file.*\(embeddings\.model\)"):
        LlamaCompute(load_of(model, own=tmp_path / "missing.gguf"), lambda _: None)


def test_the_longest_text_is_computed_in_one_piece(model: Path, tmp_path: Path) -> None:
    bert = write_tiny_bert(tmp_path / "bert.gguf")
    compute = LlamaCompute(load_of(model, own=bert), lambda _: None)
    tokens = [4 + n % 40 for n in range(64)]
    compute.bind(0, Sampling(temperature=0), [], [], request=1)
    whole = compute.run([Chunk(0, 0, tokens, False, 1, (64,))]).vectors[0]
    shorter = compute.run([Chunk(0, 0, tokens[:63], False, 1, (63,))]).vectors[0]
    compute.clear(0)
    compute.close()
    assert not np.allclose(np.frombuffer(whole, "<f4"), np.frombuffer(shorter, "<f4"), atol=1e-6)


def test_a_text_has_the_tokens_around_it_that_its_model_wants(model: Path, tmp_path: Path) -> None:
    bert = LlamaVocabulary.open(write_tiny_bert(tmp_path / "bert.gguf"))
    tiny = LlamaVocabulary.open(model)
    assert bert.around == ((2,), (3,))
    assert tiny.around == ((1,), ())
    assert [bert.piece(token) for token in bert.tokenize("the cat", add_bos=False)] == [b" the", b" cat"]
    bert.close()
    tiny.close()
