"""What bad input gets: a status, the field, and a daemon that goes on serving."""

from __future__ import annotations

import gc
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Api, serve
from tests.support.callbacks.sitecustomize import watching


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One server for all of these: none of them may harm it, or keep its loop busy."""
    slow: list[str] = []
    gc.freeze()  # what the tests themselves have made is no concern of the server's
    with watching(slow.append):
        yield from serve(tmp_path_factory.mktemp("api"))
    gc.unfreeze()
    assert not slow, "\n".join(slow)


@pytest.fixture
def unwatched_api(tmp_path: Path) -> Iterator[Api]:
    """For a bug: the test's own log writes its whole traceback on the loop."""
    yield from serve(tmp_path)


@pytest.fixture
def small_body_api(tmp_path: Path) -> Iterator[Api]:
    yield from serve(tmp_path, {"server": {"max_body_bytes": 10_000}})


KEY = {"authorization": "Bearer td_acme"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def still_serves(api: Api) -> bool:
    return api.completion(prompt="Hi").status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"prompt": "a",}', "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"prompt": "\xff\xfe"}', "not valid JSON"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b'{"prompt": "a", "temperature": NaN}', "temperature"),
        (b'{"prompt": ' + b"[" * 50_000, "not valid JSON"),
        (b'{"prompt": ' + b"[" * 100_000, "more than 65536 strings, objects and lists"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(api: Api, body: bytes, says: str) -> None:
    answer = api.client.post("/v1/completions", content=body, headers=KEY)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]
    assert still_serves(api)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", []),
        ("prompt", [""]),
        ("prompt", [[]]),
        ("prompt", 7),
        ("prompt", None),
        ("prompt", {"a": 1}),
        ("prompt", [1.5]),
        ("prompt", [258]),
        ("prompt", [-1]),
        ("prompt", [1, "a"]),
        ("prompt", [True]),
        ("prompt", ["a", 1]),
        ("prompt", ["a"] * 129),
        ("temperature", -0.1),
        ("temperature", 1e9),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 1.1),
        ("top_p", -1),
        ("top_k", -5),
        ("top_k", 1 << 70),
        ("min_p", 2),
        ("typical_p", 0),
        ("repeat_penalty", 0),
        ("repeat_last_n", -1),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("seed", 1 << 64),
        ("seed", "x"),
        ("max_tokens", 0),
        ("max_tokens", -2),
        ("max_tokens", 1.5),
        ("n", 0),
        ("n", 9),
        ("logprobs", 6),
        ("stop", [""]),
        ("stop", False),
        ("stop", ["a", ""]),
        ("stop", ["a"] * 17),
        ("stop", 5),
        ("logit_bias", {"258": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"²": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", [1]),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("echo", True),
        ("suffix", "end"),
        ("suffix", 5),
        ("best_of", 2),
        ("model", 5),
        ("model", "gpt-4"),
        ("grammar", "(" * 10_000),
        ("timeout_s", 0),
        ("timeout_s", -1),
        ("timeout_s", 86_401),
        ("timeout_s", "1"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
    ],
)
def test_a_bad_value_is_refused_with_its_field(api: Api, field: str, value: Any) -> None:
    before = len(api.service.streams)
    answer = api.completion(**{"prompt": "Hi", field: value})
    assert answer.status_code == (404 if value == "gpt-4" else 400)
    assert answer.json()["error"]["param"].startswith(field)
    assert len(api.service.streams) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", "Hi"),
        ("messages", [1]),
        ("messages", [{"role": "king", "content": "a"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("tools", [{"type": "function"}]),
        ("functions", [{"name": "f"}]),
        ("top_logprobs", 3),
        ("logprobs", 3),
        ("max_completion_tokens", 0),
    ],
)
def test_a_bad_chat_value_is_refused_with_its_field(api: Api, field: str, value: Any) -> None:
    before = len(api.service.streams)
    answer = api.chat(**{**CHAT, field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(field)
    assert len(api.service.streams) == before


def test_a_thousand_biases_are_taken_and_more_are_refused_with_the_bound(api: Api) -> None:
    most = {f"{number % 258:0{4 + number // 258}}": 1 for number in range(1024)}
    assert api.completion(prompt="Hi", logit_bias=most).status_code == 200
    error = api.completion(prompt="Hi", logit_bias={**most, "1": 1}).json()["error"]
    assert error["message"] == "logit_bias has 1025 entries; at most 1024 are allowed"
    assert (error["code"], error["param"]) == ("invalid_request", "logit_bias")


def test_a_text_of_ten_megabytes_is_refused_at_once(api: Api) -> None:
    began_s = time.process_time()  # the server runs in this process
    answer = api.completion(prompt="x" * 10_000_000)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert time.process_time() - began_s < 8  # half a second, on a machine with nothing else to do
    assert still_serves(api)


def test_a_chat_of_ten_megabytes_is_refused_at_once(api: Api) -> None:
    answer = api.chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x" * 10_000_000}]}])
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("value", [b"1,", b'"a",', b"{},", b'"\\"",'])
def test_millions_of_values_are_refused_before_they_are_made(api: Api, value: bytes) -> None:
    body = b'{"prompt": [' + value * 3_000_000 + b"1]}"
    began_s = time.process_time()  # the server runs in this process
    answer = api.client.post("/v1/completions", content=body, headers=KEY)
    assert (answer.status_code, time.process_time() - began_s < 8) == (400, True)
    assert "the request body has more than" in answer.json()["error"]["message"]


def test_a_large_text_full_of_commas_and_quotes_is_one_value(api: Api) -> None:
    answer = api.completion(prompt='a,"b\\", ' * 200_000)
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_more_token_ids_than_the_context_holds_are_refused(api: Api) -> None:
    answer = api.completion(prompt=[1] * 513)
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_bound_is_refused(small_body_api: Api, chunked: bool) -> None:
    api = small_body_api
    body = json.dumps({"prompt": "x" * 20_000}).encode()
    pieces = (body[i : i + 100] for i in range(0, len(body), 100))
    answer = api.client.post("/v1/completions", content=pieces if chunked else body, headers=KEY)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert still_serves(api)


def test_a_body_of_megabytes_over_the_bound_is_answered_and_not_read(small_body_api: Api) -> None:
    assert small_body_api.completion(prompt="x" * 8_000_000).status_code == 413
    assert still_serves(small_body_api)


def test_unknown_routes_and_methods_have_openais_error_shape(api: Api) -> None:
    missing = api.client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = api.client.get("/v1/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert all(answer.headers["x-request-id"].startswith("req_") for answer in (missing, wrong))


def test_a_bug_is_answered_with_500_and_logged(
    unwatched_api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unwatched_api.service.supervisor, "info", "no info")
    answer = unwatched_api.completion(prompt="Hi")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "no info" not in answer.text
    assert "AttributeError" in caplog.text


def test_what_is_not_http_is_answered_in_the_same_shape(api: Api) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(api.path))
        sock.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = sock.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "invalid_request"
