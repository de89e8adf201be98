"""/v1/completions and /v1/chat/completions, answered whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tenantd.domain import FinishReason
from tenantd.errors import EngineFailure, LedgerUnavailable, QueueFull
from tests.api.conftest import Api
from tests.support.grammars import compiled, compiled_schema

TEXT = "Hello, wörld!"
TOKENS = len(TEXT.encode())
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": TOKENS,
    "total_tokens": 3 + TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0},
}

DIGITS = f"{1:032x}"
FIRST = "req_" + DIGITS


def events(body: str) -> list[Any]:
    """The data of a stream's events; [DONE] as it is."""
    assert body.endswith("\n\n")
    found = [event.removeprefix("data: ") for event in body[:-2].split("\n\n")]
    return [event if event == "[DONE]" else json.loads(event) for event in found]


def test_a_completion_is_answered_in_openais_shape(api: Api) -> None:
    answer = api.completion(model="tiny", prompt="Hi")
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == FIRST
    assert answer.json() == {
        "id": "cmpl-" + DIGITS,
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "tiny",
        "system_fingerprint": "fp_0",
        "choices": [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def test_a_chat_is_answered_in_openais_shape(api: Api) -> None:
    answer = api.chat(messages=[{"role": "user", "content": "Hi"}]).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"] == "chatcmpl-" + DIGITS
    [choice] = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": TEXT, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_a_completion_streams_its_text_then_the_reason_then_done(api: Api) -> None:
    answer = api.completion(prompt="Hi", stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-request-id"] == FIRST
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {(c["id"], c["object"], c["created"], c["model"]) for c in chunks} == {
        ("cmpl-" + DIGITS, "text_completion", 1_700_000_000, "tiny")
    }
    assert all("usage" not in chunk for chunk in chunks)


def test_a_chat_streams_the_role_first_and_the_reason_last(api: Api) -> None:
    *chunks, done = events(api.chat(messages=[{"role": "user", "content": "Hi"}], stream=True).text)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == TEXT
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_usage_comes_in_a_last_chunk_without_choices_when_asked_for(api: Api) -> None:
    *chunks, last, done = events(api.completion(prompt="Hi", stream=True, stream_options={"include_usage": True}).text)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"] == USAGE
    assert all(chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize("text", ['"\\\n\x01', "</s>data: [DONE]\n\n", "\x00", "日本"])
def test_text_that_looks_like_json_or_like_an_event_arrives_as_it_is(api: Api, text: str) -> None:
    api.service.answer = text
    *chunks, _ = events(api.completion(prompt="Hi", stream=True).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text


def test_max_tokens_ends_with_length(api: Api) -> None:
    choice = api.completion(prompt="Hi", max_tokens=3).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("Hel", "length")


def test_max_completion_tokens_wins_over_max_tokens(api: Api) -> None:
    answer = api.chat(messages=[{"role": "user", "content": "Hi"}], max_tokens=9, max_completion_tokens=3).json()
    assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stop", ["wö", ["!", "wö"]])
def test_a_stop_text_ends_the_answer_before_it(api: Api, stop: Any) -> None:
    choice = api.completion(prompt="Hi", stop=stop).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("Hello, ", "stop")


def test_several_prompts_times_n_give_choices_in_order(api: Api) -> None:
    answer = api.completion(prompt=["one", [2, 2]], n=2).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [g.prompt for g in api.service.generations] == [[256, *b"one"]] * 2 + [[2, 2]] * 2
    assert answer["usage"]["prompt_tokens"] == 6, "each prompt once"
    assert answer["usage"]["completion_tokens"] == 4 * TOKENS


def test_choices_of_a_prompt_are_numbered_and_share_their_settings(api: Api) -> None:
    api.completion(prompt=["one", "two"], n=3, seed=5)
    generations = api.service.generations
    assert [generation.choice for generation in generations] == [0, 1, 2, 0, 1, 2]
    assert len({id(generation.sampling) for generation in generations}) == 1, "which is sent to the engine once"
    assert [generation.seed() for generation in generations] == [5, 6, 7, 5, 6, 7]


def test_several_choices_stream_side_by_side(api: Api) -> None:
    *chunks, usage, done = events(
        api.completion(prompt="Hi", n=3, stream=True, stream_options={"include_usage": True}).text
    )
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 3 * TOKENS
    texts = ["", "", ""]
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == [TEXT] * 3


def test_completion_logprobs_are_the_same_streamed_and_whole(api: Api) -> None:
    whole = api.completion(prompt="Hi", logprobs=2).json()["choices"][0]["logprobs"]
    assert "".join(whole["tokens"][:5]) == "Hello"
    assert whole["token_logprobs"] == [-0.5] * TOKENS
    assert whole["top_logprobs"][0] == {"H": -0.5, "!": -2.0}
    assert whole["text_offset"][:6] == [0, 1, 2, 3, 4, 5]
    *chunks, _ = events(api.completion(prompt="Hi", logprobs=2, stream=True).text)
    streamed: dict[str, list[Any]] = {name: [] for name in whole}
    for chunk in chunks:
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            streamed[name] += values
    assert streamed == whole


def test_chat_logprobs_have_tokens_bytes_and_alternatives(api: Api) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2}
    whole = api.chat(**body).json()["choices"][0]["logprobs"]["content"]
    assert whole[0] == {
        "token": "H",
        "logprob": -0.5,
        "bytes": [72],
        "top_logprobs": [
            {"token": "H", "logprob": -0.5, "bytes": [72]},
            {"token": "!", "logprob": -2.0, "bytes": [33]},
        ],
    }
    *chunks, _ = events(api.chat(**body, stream=True).text)
    assert [e for c in chunks for e in (c["choices"][0]["logprobs"] or {"content": []})["content"]] == whole


def test_an_error_before_the_first_token_has_its_true_status(api: Api) -> None:
    api.service.refusal = QueueFull("full", retry_after_s=7)
    answer = api.completion(prompt="Hi", stream=True)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.json()["error"] == {
        "message": "full",
        "type": "rate_limit_error",
        "param": None,
        "code": "queue_full",
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_at_the_start_has_its_true_status_and_the_rows_id(api: Api, stream: bool) -> None:
    api.service.failure = EngineFailure("broken")
    answer = api.completion(prompt="Hi", stream=stream)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == FIRST
    assert answer.json()["error"]["code"] == "engine_failure"


def test_a_stream_that_fails_ends_with_an_error_and_without_done(api: Api) -> None:
    api.service.failure, api.service.fail_after = EngineFailure("broken"), 4
    *chunks, last = events(api.completion(prompt="Hi", stream=True).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hell"
    assert last["error"]["message"] == "broken"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)


def test_an_answer_whose_row_is_not_written_does_not_look_complete(api: Api) -> None:
    api.service.unsettled = LedgerUnavailable("disk full")
    assert api.completion(prompt="Hi").status_code == 503
    *chunks, last = events(api.completion(prompt="Hi", stream=True).text)
    assert last["error"]["code"] == "ledger_unavailable"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)


def test_a_request_cancelled_by_an_administrator_ends_with_an_error(api: Api) -> None:
    api.service.hold_after = 3
    with api.client.stream(
        "POST", "/v1/completions", json={"prompt": "Hi", "stream": True}, headers={"authorization": "Bearer td_acme"}
    ) as answer:
        assert api.new_client().post(f"/admin/v1/requests/{FIRST}/cancel").json() == {"cancelled": FIRST}
        body = "".join(answer.iter_text())
    assert events(body)[-1]["error"]["code"] == "cancelled"


def test_settings_reach_the_engine(api: Api) -> None:
    api.completion(
        prompt="Hi",
        temperature=0,
        top_k=5,
        top_p=0.5,
        min_p=0.1,
        typical_p=0.9,
        repeat_penalty=1.1,
        repeat_last_n=7,
        presence_penalty=1,
        frequency_penalty=-1,
        seed=11,
        logit_bias={"65": -100},
        ignore_eos=True,
        grammar='root ::= "a"',
        logprobs=3,
    )
    sampling = api.service.generations[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0, 5, 0.5, 0.1)
    assert (sampling.typical_p, sampling.repeat_penalty, sampling.repeat_last_n) == (0.9, 1.1, 7)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.seed) == (1, -1, 11)
    assert (sampling.logit_bias, sampling.ignore_eos, sampling.logprobs) == ({65: -100}, True, 3)
    assert sampling.grammar == compiled('root ::= "a"')


def test_null_means_the_default(api: Api) -> None:
    answer = api.completion(prompt="Hi", temperature=None, stop=None, n=None, logit_bias=None, response_format=None)
    assert answer.status_code == 200


def test_response_format_becomes_a_grammar(api: Api) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    api.completion(prompt="Hi", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    api.completion(prompt="Hi", response_format={"type": "json_object"})
    api.completion(prompt="Hi", response_format={"type": "text"})
    by_schema, any_object, text = (g.sampling.grammar for g in api.service.generations)
    assert by_schema == compiled_schema(schema) and any_object == compiled_schema({"type": "object"})
    assert text == ""


def test_the_openai_client_completes_and_streams(api: Api) -> None:
    client = api.openai()
    completion = client.completions.create(model="tiny", prompt="Hi")
    assert completion.choices[0].text == TEXT
    assert completion.usage is not None and completion.usage.completion_tokens == TOKENS
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == TOKENS
    assert chunks[-2].choices[0].finish_reason == FinishReason.STOP
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "tenantd"


def test_the_openai_client_raises_its_own_errors(api: Api) -> None:
    client = api.openai()
    with pytest.raises(openai.NotFoundError) as not_found:
        client.completions.create(model="gpt-4", prompt="Hi")
    assert not_found.value.code == "model_not_found"
    api.service.failure, api.service.fail_after = EngineFailure("broken"), 2
    with pytest.raises(openai.APIError, match="broken"):
        list(client.completions.create(model="tiny", prompt="Hi", stream=True))
    wrong = api.openai(key="td_wrong")
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
