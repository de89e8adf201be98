"""What every engine promises of texts that it embeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Compute, EngineBroken
from tenantd.engine.fake import FakeCompute
from tenantd.wire.messages import LoadEmbeddings
from tests.support.device import VECTORS_NOISE
from tests.support.loads import fake_load, make_load
from tests.support.tiny_bert import write_tiny_bert

GREEDY = Sampling(temperature=0)
TEXTS = [[5, 9, 12], [7], [30, 31, 8, 9, 10, 11], [5, 9, 12]]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture(params=["fake", "bert", "own"])
def engine(request: pytest.FixtureRequest, tiny_model: Path, bert: Path) -> Iterator[Compute]:
    """Without a model; with a model of its own for texts; with the one that generates."""
    if request.param == "fake":
        own = LoadEmbeddings(model_path="", pooling="mean", input_tokens=32)
        compute: Compute = FakeCompute(fake_load(embeddings=own))
    else:
        from tenantd.engine.llama import LlamaCompute

        path, pooling = (str(bert), "model") if request.param == "bert" else ("", "mean")
        own = LoadEmbeddings(model_path=path, pooling=pooling, input_tokens=32)
        load = make_load(backend="llama", model_path=str(tiny_model), embeddings=own)
        compute = LlamaCompute(load, lambda _: None)
    yield compute
    compute.close()


def embed(engine: Compute, *requests: list[list[int]]) -> list[Any]:
    """The vectors of the texts of each request, of shape (texts, dimensions), computed in one pass."""
    chunks = []
    for sequence, texts in enumerate(requests):
        engine.bind(sequence, GREEDY, [], [], request=sequence + 1)
        tokens = [token for text in texts for token in text]
        chunks.append(Chunk(sequence, 0, tokens, False, sequence + 1, tuple(map(len, texts))))
    result = engine.run(chunks)
    assert not result.sampled
    for chunk in chunks:
        engine.clear(chunk.sequence)
    assert engine.is_empty()
    vectors = [result.vectors[chunk.sequence] for chunk in chunks]
    return [np.frombuffer(each, "<f4").reshape(len(texts), -1) for each, texts in zip(vectors, requests, strict=True)]


def test_each_text_has_a_vector_of_length_one_that_depends_on_it_alone(engine: Compute) -> None:
    assert engine.info.embeddings is not None
    [vectors] = embed(engine, TEXTS)
    assert vectors.shape == (len(TEXTS), engine.info.embeddings.dimensions)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[3], atol=VECTORS_NOISE)
    assert not np.allclose(vectors[0], vectors[1], atol=0.05)
    for text, vector in zip(TEXTS, vectors, strict=True):
        [[alone]] = embed(engine, [text])
        assert np.allclose(alone, vector, atol=VECTORS_NOISE)


def test_alone_the_same_text_has_the_same_bits_whatever_was_computed_before(engine: Compute) -> None:
    [[first]] = embed(engine, [TEXTS[2]])
    embed(engine, [[3] * 20], [[4, 5], [6]])
    [[again]] = embed(engine, [TEXTS[2]])
    assert first.tobytes() == again.tobytes()


def test_beside_others_a_text_has_the_same_vector(engine: Compute) -> None:
    [[alone]] = embed(engine, [TEXTS[2]])
    for other in ([[3] * 9], [[200 % 60, 1, 2, 3]]):
        [beside], _ = embed(engine, [TEXTS[2]], other)
        assert np.allclose(beside, alone, atol=VECTORS_NOISE)


def test_more_texts_than_fit_a_batch_are_computed_all_the_same(engine: Compute) -> None:
    texts = [[3 + n % 40, 4 + n % 30, 5] for n in range(64)]
    [vectors] = embed(engine, texts)
    [[last]] = embed(engine, [texts[-1]])
    assert len(vectors) == 64
    assert np.allclose(vectors[-1], last, atol=VECTORS_NOISE)


def test_generating_goes_on_beside_it_as_if_nothing_had_been(engine: Compute) -> None:
    def generate(*, beside: bool) -> list[int]:
        engine.bind(3, GREEDY, [5, 9, 12], [], request=9)
        tokens, done, found = [5, 9, 12], 0, []
        for _ in range(5):
            result = engine.run([Chunk(3, done, tokens, True, 9)])
            done += len(tokens)
            tokens = [result.sampled[3].token]
            found += tokens
            if beside:
                engine.bind(0, GREEDY, [], [], request=1)
                engine.run([Chunk(0, 0, [7, 8], False, 1, (2,))])
                engine.clear(0)
        engine.clear(3)
        return found

    assert generate(beside=True) == generate(beside=False)


def test_texts_of_another_request_are_not_computed(engine: Compute) -> None:
    engine.bind(0, GREEDY, [], [], request=1)
    with pytest.raises(EngineBroken):
        engine.run([Chunk(0, 0, [7, 8], False, 2, (2,))])
    engine.clear(0)
    with pytest.raises(EngineBroken):
        engine.run([Chunk(0, 0, [7, 8], False, 1, (2,))])
