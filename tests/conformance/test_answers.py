"""What the official client reads out of answers: every field it knows, whole and streamed."""

from __future__ import annotations

import asyncio
import itertools
import math
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.conformance.conftest import MODEL, Shared, connect
from tests.support.daemon import Daemon, wait_until

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
ENDLESS: dict[str, Any] = {"max_tokens": 12, "extra_body": {"ignore_eos": True}}


def test_the_model_is_listed_and_can_be_looked_up(client: openai.OpenAI) -> None:
    (model,) = list(client.models.list())
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "tenantd")
    assert model.created > 1_700_000_000
    assert client.models.retrieve(MODEL) == model


def test_a_completion_has_all_its_fields(client: openai.OpenAI, shared: Shared) -> None:
    answer = client.completions.create(model=MODEL, prompt="hello", **ENDLESS)
    assert answer.object == "text_completion" and answer.model == MODEL
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert len(choice.text) == 12
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    row = next(row for row in shared.daemon.rows() if row["id"] == answer._request_id)
    assert (row["tenant"], row["completion_tokens"]) == ("acme", 12)


def test_a_chat_completion_has_all_its_fields(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, **ENDLESS)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and len(choice.message.content or "") == 12
    assert choice.finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 12
    newer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=12, extra_body={"ignore_eos": True}
    )
    assert newer.choices[0].message.content == choice.message.content


def test_a_completion_streams_the_same_text_with_its_end_and_its_usage(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="hello", **ENDLESS)
    with client.completions.create(
        model=MODEL, prompt="hello", stream=True, stream_options={"include_usage": True}, **ENDLESS
    ) as stream:
        chunks = list(stream)
    *parts, last = chunks
    assert "".join(chunk.choices[0].text for chunk in parts) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in parts[-2:]] == [None, "length"]
    assert last.choices == [] and last.usage == whole.usage
    assert all(chunk.usage is None for chunk in parts)
    assert len({chunk.id for chunk in chunks}) == 1
    assert stream.response.headers["x-request-id"].startswith("req_")


def test_without_the_option_a_stream_has_no_usage(client: openai.OpenAI) -> None:
    with client.completions.create(model=MODEL, prompt="hello", stream=True, **ENDLESS) as stream:
        chunks = list(stream)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_a_chat_streams_the_same_text_with_its_role_first(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, **ENDLESS)
    with client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **ENDLESS
    ) as stream:
        first, *parts, last = list(stream)
    assert first.object == "chat.completion.chunk"
    assert first.choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in (first, *parts))
    assert text == whole.choices[0].message.content
    assert parts[-1].choices[0].finish_reason == "length"
    assert last.choices == [] and last.usage == whole.usage


def test_the_clients_own_stream_helper_gathers_the_whole_chat(client: openai.OpenAI) -> None:
    full = client.chat.completions.create(model=MODEL, messages=MESSAGES, **ENDLESS).choices[0].message.content or ""
    helper = getattr(client.chat.completions, "stream", None) or client.beta.chat.completions.stream  # before 1.92
    with helper(model=MODEL, messages=MESSAGES, stop=full[6:9], **ENDLESS) as stream:
        gathered = stream.get_final_completion()
    assert gathered.choices[0].message.content == full[: full.index(full[6:9])]
    assert gathered.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("streamed", [False, True])
def test_two_choices_and_two_prompts_are_four_texts(client: openai.OpenAI, streamed: bool) -> None:
    body: Any = {"model": MODEL, "prompt": ["one", "two"], "n": 2, **ENDLESS}
    texts = ["", "", "", ""]
    reasons: list[str | None] = [None] * 4
    if streamed:
        with client.completions.create(stream=True, **body) as stream:
            for choice in itertools.chain.from_iterable(chunk.choices for chunk in stream):
                texts[choice.index] += choice.text
                reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    else:
        answer = client.completions.create(**body)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        texts = [choice.text for choice in answer.choices]
        reasons = [choice.finish_reason for choice in answer.choices]
        assert answer.usage is not None and answer.usage.completion_tokens == 48
    assert [len(text) for text in texts] == [12] * 4 and reasons == ["length"] * 4
    assert texts[0] == texts[1] != texts[2] == texts[3], "this engine is the same for the same prompt"


def test_token_ids_are_a_prompt_and_so_are_lists_of_them(client: openai.OpenAI) -> None:
    text = client.completions.create(model=MODEL, prompt="hey", **ENDLESS).choices[0].text
    tokens = [256, *b"hey"]
    assert client.completions.create(model=MODEL, prompt=tokens, **ENDLESS).choices[0].text == text
    both = client.completions.create(model=MODEL, prompt=[tokens, tokens], **ENDLESS)
    assert [choice.text for choice in both.choices] == [text, text]


def test_logprobs_of_a_completion(client: openai.OpenAI) -> None:
    (choice,) = client.completions.create(model=MODEL, prompt="hello", logprobs=2, **ENDLESS).choices
    logprobs = choice.logprobs
    assert logprobs is not None and logprobs.tokens is not None
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.token_logprobs == [pytest.approx(-0.5)] * 12
    assert logprobs.text_offset == list(range(12))
    assert logprobs.top_logprobs is not None and list(logprobs.top_logprobs[0]) == [choice.text[0]]


@pytest.mark.parametrize("streamed", [False, True])
def test_logprobs_of_a_chat(client: openai.OpenAI, streamed: bool) -> None:
    body: Any = {"model": MODEL, "messages": MESSAGES, "logprobs": True, "top_logprobs": 1, **ENDLESS}
    if streamed:
        with client.chat.completions.create(stream=True, **body) as stream:
            choices = [chunk.choices[0] for chunk in stream]
        text = "".join(choice.delta.content or "" for choice in choices)
        found = [choice.logprobs.content for choice in choices if choice.logprobs]
        tokens = list(itertools.chain.from_iterable(content or [] for content in found))
    else:
        (whole,) = client.chat.completions.create(**body).choices
        assert whole.logprobs is not None
        text, tokens = whole.message.content or "", whole.logprobs.content or []
    assert len(tokens) == 12
    assert "".join(token.token for token in tokens) == text
    for token in tokens:
        assert bytes(token.bytes or []).decode() == token.token
        assert 0 < math.exp(token.logprob) <= 1
        assert token.top_logprobs[0].token == token.token


def test_stop_strings_end_the_text_before_them(client: openai.OpenAI) -> None:
    full = client.completions.create(model=MODEL, prompt="hello", **ENDLESS).choices[0].text
    stop = full[4:7]
    for given in (stop, ["nowhere", stop]):
        (choice,) = client.completions.create(model=MODEL, prompt="hello", stop=given, **ENDLESS).choices
        assert (choice.text, choice.finish_reason) == (full[: full.index(stop)], "stop")


def test_an_answer_sent_back_as_the_client_has_it_is_part_of_the_conversation(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model=MODEL, messages=MESSAGES, **ENDLESS).choices[0].message
    for sent in (first.model_dump(), {"role": "assistant", "content": None, "refusal": None, "name": "bot"}):
        more: Any = [*MESSAGES, sent, {"role": "user", "content": "Go on."}]
        answer = client.chat.completions.create(model=MODEL, messages=more, **ENDLESS)
        assert len(answer.choices[0].message.content or "") == 12


@pytest.mark.parametrize(
    "default",
    [{"max_tokens": -1}, {"stop": ""}, {"stop": []}, {"extra_body": {"top_k": -1}}, {"max_tokens": None}],
    ids=str,
)
def test_what_other_servers_call_the_default_is_the_default(client: openai.OpenAI, default: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "hello", "seed": 1}
    (plain,) = client.completions.create(**asked).choices
    (choice,) = client.completions.create(**{**asked, **default}).choices
    assert (choice.text, choice.finish_reason) == (plain.text, plain.finish_reason)


def test_the_raw_response_has_the_request_id(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model=MODEL, prompt="hello", max_tokens=2)
    assert raw.http_response.headers["x-request-id"] == raw.parse()._request_id
    assert raw.http_response.headers["content-type"] == "application/json"


def test_leaving_a_stream_ends_its_generation_and_what_came_is_billed(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 5000}) as daemon:
        with connect(daemon, daemon.add_tenant("acme")) as client:
            stream = client.completions.create(
                model=MODEL, prompt="x", max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
            )
            with stream:
                next(iter(stream))
        wait_until(lambda: daemon.rows()[0]["state"] != "running", "its row to be settled")
        [row] = daemon.rows()
        assert row["state"] == "disconnected"
        assert 1 <= row["completion_tokens"] < 1000


def test_the_asynchronous_client_completes_streams_and_runs_many_at_once(shared: Shared) -> None:
    async def scenario() -> None:
        async with shared.async_client() as client:
            assert [model.id async for model in client.models.list()] == [MODEL]
            whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES, **ENDLESS)
            assert whole._request_id is not None
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, **ENDLESS)
            async with stream:
                text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == whole.choices[0].message.content
            answers = await asyncio.gather(
                *(client.completions.create(model=MODEL, prompt=f"prompt {i}", **ENDLESS) for i in range(20))
            )
            assert all(len(answer.choices[0].text) == 12 for answer in answers)
            assert len({answer._request_id for answer in answers}) == 20
            with pytest.raises(openai.BadRequestError):
                await client.completions.create(model=MODEL, prompt="")

    asyncio.run(scenario())
