"""Documents ranked by a real daemon with a real model: their scores, what they cost, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tenantd.text.vocabulary import LlamaVocabulary
from tests.support.daemon import Daemon
from tests.support.program import tenantctl
from tests.support.tiny_bert import write_tiny_bert
from tests.support.tiny_gguf import write_tiny_gguf

PRICES = {"input_price_per_million": "0.1"}
QUERY = "the cat on the red"
DOCUMENTS = ["the dog sat", "a cat in the red", "it is on the cat, the dog and 7", "z"]
BY_HAND = """
import json, sys
import llama_cpp
path, texts = sys.argv[1], json.loads(sys.argv[2])
model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
params = llama_cpp.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 64
params.embeddings, params.n_threads, params.n_threads_batch = True, 1, 1
scores = []
for tokens in texts:
    context = llama_cpp.llama_init_from_model(model, params)
    assert llama_cpp.llama_pooling_type(context) == llama_cpp.LLAMA_POOLING_TYPE_RANK
    row = (llama_cpp.llama_token * len(tokens))(*tokens)  # kept until it is computed
    assert llama_cpp.llama_encode(context, llama_cpp.llama_batch_get_one(row, len(tokens))) == 0
    scores.append(float(llama_cpp.llama_get_embeddings_seq(context, 0)[0]))
print(json.dumps(scores))
"""
"""Each text alone, with llama.cpp and nothing of the daemon's."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("reranker") / "tiny-reranker.gguf", ranks=True)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("rerank")
    serves = {"path": str(write_tiny_gguf(folder / "tiny.gguf"))}
    engine = {"backend": "llama", "context_tokens": 256, "gpu_layers": 0, "threads": 1}
    ranks = {"model": str(model), "max_inputs": 50}
    with Daemon(folder, engine=engine, model=serves, embeddings=ranks, billing=PRICES) as daemon:
        daemon.add_tenant("acme")
        yield daemon
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


def rerank(daemon: Daemon, query: Any = QUERY, documents: Any = DOCUMENTS, **body: Any) -> httpx.Response:
    headers = {"X-Tenant": body.pop("tenant", "acme")}
    return daemon.post("/v1/rerank", {"query": query, "documents": documents, **body}, headers=headers)


def scores(answer: httpx.Response) -> dict[int, float]:
    """By the place of the document, the best first."""
    assert answer.status_code == 200, answer.text
    found = {each["index"]: each["relevance_score"] for each in answer.json()["results"]}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    return found


def test_scores_are_those_of_llama_cpp_and_their_tokens_are_billed(daemon: Daemon, model: Path) -> None:
    vocabulary = LlamaVocabulary.open(model)
    asked, *said = (vocabulary.tokenize(text, add_bos=False) for text in (QUERY, *DOCUMENTS))
    vocabulary.close()
    pairs = [[2, *asked, 3, *tokens] for tokens in said]
    by_hand = subprocess.run(
        [sys.executable, "-c", BY_HAND, str(model), json.dumps(pairs)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    answer = rerank(daemon)
    found = scores(answer)
    assert [found[index] for index in range(4)] == pytest.approx(json.loads(by_hand), abs=1e-5)
    assert len(set(found.values())) == 4, "or the test would show nothing"
    count = sum(map(len, pairs))
    assert answer.json()["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert answer.json()["model"] == "tiny-reranker"
    row = next(row for row in daemon.rows() if row["id"] == answer.headers["x-request-id"])
    assert (row["kind"], row["state"], row["prompt_tokens"], row["completion_tokens"]) == (
        "embedding",
        "stop",
        count,
        0,
    )
    assert row["input_nanos"] == count * 100
    assert tenantctl(daemon, "ledger", "check").returncode == 0


def test_only_the_best_with_their_texts_and_documents_as_objects(daemon: Daemon) -> None:
    whole = rerank(daemon).json()["results"]
    objects = [{"text": text} for text in DOCUMENTS]
    best = rerank(daemon, documents=objects, top_n=2, return_documents=True).json()["results"]
    assert [each["document"]["text"] for each in best] == [DOCUMENTS[each["index"]] for each in best]
    assert [{**each, "document": None} for each in best] == [{**each, "document": None} for each in whole[:2]]


def test_what_two_tenants_ask_together_they_get_alone(daemon: Daemon) -> None:
    daemon.add_tenant("other")
    alone = [scores(rerank(daemon)), scores(rerank(daemon, "dog", DOCUMENTS * 10, tenant="other"))]
    with ThreadPoolExecutor() as threads:
        asked = [
            threads.submit(rerank, daemon),
            threads.submit(rerank, daemon, "dog", DOCUMENTS * 10, tenant="other"),
        ]
        together = [scores(each.result()) for each in asked]
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"query": "", "documents": ["a"]}, "query", ""),
        ({"query": "a", "documents": []}, "documents", ""),
        ({"query": "a", "documents": ["a", ""]}, "documents", ""),
        ({"query": "a", "documents": [["a"]]}, "documents", ""),
        ({"query": "a", "documents": [{"title": "a"}]}, "documents", ""),
        ({"query": "a", "documents": ["a"] * 51}, "documents", "at most 50 are allowed in one request (got 51)"),
        ({"query": "a", "documents": ["a", "z " * 200]}, "documents", "documents[1] with the query has"),
        ({"query": "z " * 200, "documents": ["a"]}, "query", "leaves no room for a document"),
        ({"query": "z" * 1_000_000, "documents": ["a"]}, "query", "at least"),
        ({"query": "a", "documents": ["z" * 1_000_000]}, "documents", "at least"),
        ({"query": "a"}, "documents", ""),
        ({"query": "a", "documents": ["a"], "max_chunks_per_doc": 2}, "max_chunks_per_doc", "too long is refused"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n", ""),
        ({"query": "a", "documents": ["a"], "raw_scores": False}, "raw_scores", "scores are those of the model"),
        ({"query": "a", "documents": ["a"], "model": "other"}, "model", "this server has 'tiny-reranker'"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name_and_leaves_no_row(
    daemon: Daemon, body: dict[str, Any], param: str, words: str
) -> None:
    rows = len(daemon.rows())
    answer = daemon.post("/v1/rerank", body, headers={"X-Tenant": "acme"})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"].startswith(param)
    assert words in answer.json()["error"]["message"]
    assert len(daemon.rows()) == rows


def test_limits_of_the_tenant_hold(daemon: Daemon) -> None:
    daemon.add_tenant("small", limits={"max_context_tokens": 8})
    answer = rerank(daemon, "cat", ["dog", DOCUMENTS[2]], tenant="small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "documents[1] with the query has" in answer.json()["error"]["message"]
    assert "tenant small may rank at most 8" in answer.json()["error"]["message"]


def test_each_kind_of_model_is_refused_for_what_it_does_not_do_with_the_one_that_is_needed(
    daemon: Daemon, tmp_path: Path
) -> None:
    answer = daemon.post("/v1/embeddings", {"input": "a"}, headers={"X-Tenant": "acme"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported")
    assert "/v1/rerank" in answer.json()["error"]["message"]
    for settings in ({"pooling": "mean"}, {}):
        folder = tmp_path / f"{len(settings)}"
        folder.mkdir()
        with Daemon(folder, embeddings=settings) as other:
            other.add_tenant("acme")
            refused = rerank(other)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported")
            assert "a reranker, with the pooling type rank" in refused.json()["error"]["message"]
