"""Bytes of server-sent events."""

import json

from tenantd.api.openai.answers import event
from tests.api.conftest import Api

TALK = {"messages": [{"role": "user", "content": "Hi"}]}


def test_no_character_of_an_event_ends_a_line_for_anyone() -> None:
    text = "a\u2028b\u2029c\u0085d\u00e9\u2013"
    data = event({"text": text}).removeprefix(b"data: ").removesuffix(b"\n\n").decode()
    assert len(data.splitlines()) == 1
    assert json.loads(data) == {"text": text}


def test_tokens_of_a_stop_string_have_no_logprobs_in_a_whole_answer(api: Api) -> None:
    for stop, tokens in (("wör", "Hello, "), ("H", "")):
        [choice] = api.completion(prompt="a", logprobs=1, stop=stop).json()["choices"]
        assert choice["text"] == tokens
        logprobs = choice["logprobs"] or {"tokens": [], "text_offset": []}
        assert "".join(logprobs["tokens"]) == tokens
        assert logprobs["text_offset"] == list(range(len(tokens)))
    [choice] = api.chat(**TALK, logprobs=True, top_logprobs=2, stop=["wör"]).json()["choices"]
    assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == "Hello, "
    assert [len(entry["top_logprobs"]) for entry in choice["logprobs"]["content"]] == [2] * 7
    assert choice["logprobs"]["refusal"] is None


def test_a_long_answer_is_taken_in_parts_and_whole_in_the_end(api: Api) -> None:
    api.service.answer = "word, " * 300
    answer = api.completion(prompt="a", max_tokens=1800, logprobs=1).json()
    assert answer["choices"][0]["text"] == api.service.answer
    assert "".join(answer["choices"][0]["logprobs"]["tokens"]) == api.service.answer
