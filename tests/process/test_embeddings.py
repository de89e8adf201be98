"""Embeddings of a real daemon: who gets them, what they cost, and what ends them."""

from __future__ import annotations

import base64
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.program import tenantctl

EMBEDS = {"pooling": "mean", "max_input_tokens": 100, "max_inputs": 50}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("vectors"), embeddings=EMBEDS) as daemon:
        daemon.add_tenant("acme")
        yield daemon
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


def embed(daemon: Daemon, given: Any, tenant: str = "acme", **body: Any) -> httpx.Response:
    return daemon.post("/v1/embeddings", {"input": given, **body}, headers={"X-Tenant": tenant})


def vectors(answer: httpx.Response) -> Any:
    """Of shape (inputs, dimensions)."""
    assert answer.status_code == 200, answer.text
    assert [each["index"] for each in answer.json()["data"]] == list(range(len(answer.json()["data"])))
    return np.array([each["embedding"] for each in answer.json()["data"]])


def row_of(daemon: Daemon, answer: httpx.Response) -> dict[str, Any]:
    return next(row for row in daemon.rows() if row["id"] == answer.headers["x-request-id"])


def test_vectors_are_those_of_the_texts_and_their_tokens_are_billed(daemon: Daemon) -> None:
    answer = embed(daemon, ["red", "green", "red"])
    found = vectors(answer)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    assert (found[0] == found[2]).all() and not (found[0] == found[1]).all()
    assert answer.json()["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    row = row_of(daemon, answer)
    assert (row["kind"], row["model"], row["state"]) == ("embedding", "fake", "stop")
    assert (row["prompt_tokens"], row["completion_tokens"], row["max_tokens"]) == (11, 0, 0)
    assert row["input_nanos"] == 11 * 100 and row["output_nanos"] == 0
    assert np.allclose(vectors(embed(daemon, [list(b"red")])), found[:1]), "token ids are as good as text"


def test_base64_holds_the_same_numbers_and_fewer_dimensions_have_the_length_one_again(daemon: Daemon) -> None:
    whole = vectors(embed(daemon, "some text"))[0]
    coded = embed(daemon, "some text", encoding_format="base64").json()["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(coded), "<f4"), whole)
    short = vectors(embed(daemon, "some text", dimensions=8))[0]
    assert short.shape == (8,)
    assert np.allclose(short, whole[:8] / np.linalg.norm(whole[:8]))


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": ""}, "input", "input[0] must not be empty"),
        ({"input": ["a", ""]}, "input", "input[1] must not be empty"),
        ({"input": []}, "input", "not empty"),
        ({"input": [[]]}, "input", "input[0] must not be empty"),
        ({"input": None}, "input", ""),
        ({"input": {"text": "a"}}, "input", "must be a string"),
        ({"input": ["a", 5]}, "input", "input[1] must be a string or a list of token ids"),
        ({"input": [5, "a"]}, "input", "is not a token id"),
        ({"input": [258]}, "input", "258 is not a token id of this model (0 to 257)"),
        ({"input": [True]}, "input", ""),
        ({"input": ["a"] * 51}, "input", "at most 50 inputs are allowed in one request (got 51)"),
        ({"input": ["a"] * 20_000}, "input", "at most 50 inputs"),
        ({"input": ["a"] * 100_000}, None, "more than 65536 strings"),
        ({"input": ["a", "x" * 101]}, "input", "input[1] has at least 101 tokens, but this model embeds at most 100"),
        ({"input": "x" * 10_000_000}, "input", "at most 100 at a time"),
        ({"input": [1] * 101}, "input", "input[0] has 101 tokens"),
        ({"input": "a", "dimensions": 0}, "dimensions", ""),
        ({"input": "a", "dimensions": 33}, "dimensions", "this model's vectors have 32 numbers"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", ""),
        ({"input": "a", "normalize": False}, "normalize", "vectors have the length 1"),
        ({"input": "a", "inputs": "b"}, "inputs", "did you mean input"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name_and_leaves_no_row(
    daemon: Daemon, body: dict[str, Any], param: str | None, words: str
) -> None:
    rows = len(daemon.rows())
    answer = daemon.post("/v1/embeddings", body, headers={"X-Tenant": "acme"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]
    assert len(daemon.rows()) == rows


def test_another_model_is_not_found_and_a_daemon_without_embeddings_says_how_to_have_them(
    daemon: Daemon, tmp_path: Path
) -> None:
    assert embed(daemon, "a", model="fake").status_code == 200
    assert embed(daemon, "a", model="other").json()["error"]["code"] == "model_not_found"
    with Daemon(tmp_path) as other:
        other.add_tenant("acme")
        answer = embed(other, "a")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported")
        assert "[embeddings]" in answer.json()["error"]["message"]


def test_limits_of_the_tenant_hold(daemon: Daemon) -> None:
    daemon.add_tenant("small", limits={"max_context_tokens": 5, "requests_per_minute": 2})
    answer = embed(daemon, "123456", "small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "tenant small may embed at most 5" in answer.json()["error"]["message"]
    assert [embed(daemon, "12345", "small").status_code for _ in range(3)] == [200, 200, 429]
    daemon.add_tenant("minute", limits={"tokens_per_minute": 10})
    answer = embed(daemon, ["123456", "12345"], "minute")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "prompt_exceeds_tokens_per_minute")
    assert embed(daemon, ["1234", "12345"], "minute").status_code == 200


def test_a_budget_ends_at_what_it_pays_for(daemon: Daemon) -> None:
    daemon.add_tenant("poor")
    assert tenantctl(daemon, "budget", "set", "poor", "--daily-tokens", "10").returncode == 0
    assert embed(daemon, ["1234", "1234"], "poor").status_code == 200
    answer = embed(daemon, ["1234"], "poor")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")


def test_usage_invoice_and_trail_know_it(daemon: Daemon) -> None:
    daemon.add_tenant("billed")
    answer = embed(daemon, ["x" * 50] * 20, "billed")
    usage = daemon.get("/v1/usage", headers={"X-Tenant": "billed"}).json()
    invoice = daemon.get("/v1/invoices/this", headers={"X-Tenant": "billed"}).json()["invoice"]
    assert usage["total"]["prompt_tokens"] == 1000
    assert invoice["total_nanos"] == 1000 * 100
    entries = tenantctl(daemon, "audit", "log", "--request", answer.headers["x-request-id"], "--json").stdout
    assert '"kind":"embedding"' in entries.replace(" ", "") and '"text_bytes":2560' in entries.replace(" ", "")
    assert tenantctl(daemon, "ledger", "check").returncode == 0


def test_the_same_key_gets_the_same_vectors_and_is_billed_once(daemon: Daemon) -> None:
    daemon.add_tenant("again")
    body, headers = {"input": ["a", "b"]}, {"X-Tenant": "again", "Idempotency-Key": "k1"}
    first, second = (daemon.post("/v1/embeddings", body, headers=headers) for _ in range(2))
    assert first.json() == second.json() and second.headers["idempotent-replayed"] == "true"
    assert [row["tenant"] for row in daemon.rows()].count("again") == 1


def test_an_answer_larger_than_its_share_of_memory_is_refused_with_what_fits(tmp_path: Path) -> None:
    memory = {"max_body_bytes": 100_000, "body_bytes_total": 100_000}  # at least 1 MiB of answers
    with Daemon(tmp_path, server=memory, embeddings={"pooling": "mean"}) as daemon:
        daemon.add_tenant("acme")
        answer = embed(daemon, ["a"] * 2000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "answer_too_large")
        most = int(re.findall(r"send at most (\d+) inputs", answer.json()["error"]["message"])[0])
        assert embed(daemon, ["a"] * (most + 1)).status_code == 413
        assert daemon.rows() == []
        assert len(vectors(embed(daemon, ["a"] * most))) == most
        assert embed(daemon, ["a"] * 2000, encoding_format="base64").status_code == 200
        assert daemon.stop() == 0


def test_a_crash_of_the_engine_is_a_pause_and_nothing_is_billed_twice(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_token_micros": 5000}, embeddings=EMBEDS) as daemon:
        daemon.add_tenant("acme")
        texts = [f"{n:03} {'x' * 20}" for n in range(50)]
        expected = vectors(embed(daemon, texts[:1]))
        found: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: found.append(embed(daemon, texts)))
        asking.start()
        wait_until(lambda: any(r["state"] == "running" and r["prompt_tokens"] for r in daemon.rows()), "some vectors")
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        asking.join()
        answer = found[0]
        assert np.allclose(vectors(answer)[:1], expected) and len(vectors(answer)) == 50
        assert row_of(daemon, answer)["prompt_tokens"] == sum(map(len, texts))
        assert daemon.status()["engine_restarts"] == 1
        assert daemon.stop() == 0


def test_a_client_that_leaves_is_billed_for_what_was_computed_and_holds_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_token_micros": 5000}, embeddings=EMBEDS) as daemon:
        daemon.add_tenant("acme")
        with daemon.client(5) as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/embeddings", json={"input": ["x" * 90] * 50}, headers={"X-Tenant": "acme"})
        wait_until(lambda: all(row["state"] != "running" for row in daemon.rows()), "its end")
        [row] = daemon.rows()
        assert row["state"] == "disconnected" and 0 < row["prompt_tokens"] < 4500 and row["prompt_tokens"] % 90 == 0
        late = embed(daemon, ["x" * 90] * 50, timeout_s=0.5)
        assert (late.status_code, late.json()["error"]["code"]) == (408, "request_timeout")
        wait_until(lambda: daemon.status()["running"] == daemon.status()["waiting"] == 0, "an idle engine")
        assert daemon.stop() == 0


def test_streams_go_on_beside_many_texts(tmp_path: Path) -> None:
    engine = {"fake_step_micros": 500, "fake_token_micros": 200}
    with Daemon(tmp_path, engine=engine, embeddings={**EMBEDS, "max_inputs": 2000}) as daemon:
        daemon.add_tenant("chat")
        daemon.add_tenant("bulk")
        found: list[httpx.Response] = []
        bulk = threading.Thread(target=lambda: found.append(embed(daemon, ["x" * 50] * 500, "bulk")))
        bulk.start()
        wait_until(lambda: daemon.status()["running"] + daemon.status()["waiting"], "the texts")
        stream = daemon.stream("chat", max_tokens=50, ignore_eos=True).join()
        assert stream.done and stream.tokens == 50
        bulk.join()
        assert len(vectors(found[0])) == 500
        assert daemon.stop() == 0
