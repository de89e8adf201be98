"""Embeddings with the official client."""

from __future__ import annotations

import math

import openai
import pytest

from tests.conformance.conftest import connect
from tests.support.daemon import Daemon


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> object:
    daemon = Daemon(tmp_path_factory.mktemp("embeddings"), embeddings={"pooling": "mean", "name": "tiny-embed"})
    with daemon, connect(daemon, daemon.add_tenant("acme")) as client:
        yield client


def test_a_client_gets_numbers_whichever_way_it_asks(client: openai.OpenAI) -> None:
    texts = ["The cat sat.", "The dog sat."]
    by_default = client.embeddings.create(model="tiny-embed", input=texts)
    as_floats = client.embeddings.create(model="tiny-embed", input=texts, encoding_format="float")
    assert [each.index for each in by_default.data] == [0, 1]
    for one, other in zip(by_default.data, as_floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-5)
    assert by_default.model == "tiny-embed"
    assert by_default.usage.prompt_tokens == by_default.usage.total_tokens == 24
    raw = client.embeddings.create(model="tiny-embed", input=texts[0], encoding_format="base64")
    assert isinstance(raw.data[0].embedding, str)


def test_tokens_dimensions_and_a_user_are_taken(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="tiny-embed", input=[[72, 105], [72]], dimensions=4, user="me")
    assert [len(each.embedding) for each in answer.data] == [4, 4]
    assert [model.id for model in client.models.list()] == ["fake", "tiny-embed"]


def test_a_mistake_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="must not be empty"):
        client.embeddings.create(model="tiny-embed", input="")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="gpt-embed", input="a")
