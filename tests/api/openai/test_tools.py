"""Calls of tools and reasoning as clients get them, whole and streamed; the model's answer is scripted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tenantd.api.openai.parted import MOST_WAITING
from tenantd.text.chat import WITHOUT_TOOLS, ChatFormatter
from tenantd.text.vocabulary import ByteVocabulary
from tests.api.conftest import Api, Loop, make_config
from tests.api.fake_service import FakeService
from tests.text.with_template import WithTemplate

QWEN = """\
{%- if tools %}{{- '<|im_start|>system\\n<tools>' + tools | tojson + ' "name" <tool_call><|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.reasoning_content %}{{- '<think>' + m.reasoning_content + '</think>' }}{% endif %}
    {{- m.content }}
    {%- for call in m.tool_calls or [] %}{{- '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Look around."}]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
        },
    },
    {"type": "function", "function": {"name": "wait"}},
]
LOOK = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'
WAIT = '<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>'


@pytest.fixture
def template() -> str | None:
    return QWEN


@pytest.fixture
def api(tmp_path: Path, template: str | None) -> Iterator[Api]:
    def service() -> FakeService:
        made = FakeService(make_config(tmp_path))
        made.chat = ChatFormatter(WithTemplate(ByteVocabulary(), template))
        return made

    loop = Loop()
    api = Api(tmp_path, loop.call(service), loop)
    try:
        yield api
    finally:
        api.close()
        loop.close()


def said(api: Api, answer: str, **body: Any) -> dict[str, Any]:
    api.service.answer = answer
    reply = api.chat(messages=ASKED, max_tokens=400, **body)
    assert reply.status_code == 200, reply.text
    whole: dict[str, Any] = reply.json()
    return whole


def streamed(api: Api, answer: str, **body: Any) -> list[dict[str, Any]]:
    api.service.answer = answer
    reply = api.chat(messages=ASKED, max_tokens=400, stream=True, **body)
    assert reply.status_code == 200, reply.text
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def prompt(api: Api) -> bytes:
    """The last one, without its BOS."""
    return bytes(api.service.generations[-1].prompt[1:])


def put_together(chunks: list[dict[str, Any]], index: int = 0) -> tuple[dict[str, Any], str]:
    """The message and the finish_reason of a streamed choice."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    end = ""
    for choice in (choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index):
        delta = choice["delta"]
        for field in ("content", "reasoning_content"):
            message[field] += delta.get(field, "")
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(message["tool_calls"])
                message["tool_calls"].append({"id": call["id"], **call["function"]})
            else:
                message["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        end = choice["finish_reason"] or end
    return message, end


def test_a_call_is_in_the_answer_and_not_in_its_content(api: Api) -> None:
    body = said(api, LOOK, tools=TOOLS)
    (choice,) = body["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None and "reasoning_content" not in choice["message"]
    assert call["type"] == "function" and call["id"].startswith("call_")
    assert call["function"] == {"name": "look", "arguments": '{"at": "sky"}'}
    assert body["usage"]["completion_tokens"] == len(LOOK)


def test_reasoning_content_and_several_calls_are_told_apart(api: Api) -> None:
    text = f"<think>\nHm.\n</think>\n\nI look.\n{LOOK}\n{WAIT}"
    message = said(api, text, tools=TOOLS)["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "I look.")
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["look", "wait"]
    assert len({call["id"] for call in message["tool_calls"]}) == 2


@pytest.mark.parametrize("text", [LOOK, f"<think>Hm.</think>A {LOOK} {WAIT} b", "<think>Hm.</think>Yes.", "Yes. <too"])
def test_a_stream_adds_up_to_the_whole_answer(api: Api, text: str) -> None:
    whole = said(api, text, tools=TOOLS)["choices"][0]
    chunks = streamed(api, text, tools=TOOLS, stream_options={"include_usage": True})
    message, end = put_together(chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert end == whole["finish_reason"]
    assert message["content"] == (whole["message"]["content"] or "")
    assert message["reasoning_content"] == whole["message"].get("reasoning_content", "")
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in whole["message"].get("tool_calls", [])
    ]
    assert [(call["name"], call["arguments"]) for call in message["tool_calls"]] == calls
    assert chunks[-1]["usage"]["completion_tokens"] == len(text)


def test_text_without_calls_is_as_without_tools(api: Api) -> None:
    assert said(api, "Hi <b> ", tools=TOOLS)["choices"][0] == said(api, "Hi <b> ")["choices"][0]


def test_with_parallel_calls_off_the_answer_ends_after_the_first(api: Api) -> None:
    body = said(api, f"{LOOK}\n{WAIT}", tools=TOOLS, parallel_tool_calls=False)
    assert [call["function"]["name"] for call in body["choices"][0]["message"]["tool_calls"]] == ["look"]
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert body["usage"]["completion_tokens"] == LOOK.index("\n</tool_call>")
    message, end = put_together(streamed(api, f"{LOOK}\n{WAIT}", tools=TOOLS, parallel_tool_calls=False))
    assert [call["name"] for call in message["tool_calls"]] == ["look"] and end == "tool_calls"


def test_a_call_that_is_cut_off_stays_text_and_the_end_says_so(api: Api) -> None:
    api.service.answer = LOOK
    choice = api.chat(messages=ASKED, tools=TOOLS, max_tokens=20).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (LOOK[:20], "length")


def test_a_stop_string_ends_the_answer_wherever_it_is(api: Api) -> None:
    choice = said(api, f"One. {LOOK}", tools=TOOLS, stop=["sky"])["choices"][0]
    assert choice["finish_reason"] == "stop" and "tool_calls" not in choice["message"]
    choice = said(api, f"{LOOK} then END more", tools=TOOLS, stop=["END"])["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "then "


def test_each_of_several_choices_has_its_own_calls(api: Api) -> None:
    body = said(api, LOOK, tools=TOOLS, n=2)
    ids = {choice["message"]["tool_calls"][0]["id"] for choice in body["choices"]}
    assert len(ids) == 2
    chunks = streamed(api, LOOK, tools=TOOLS, n=2)
    for index in range(2):
        message, end = put_together(chunks, index)
        assert message["tool_calls"][0]["arguments"] == '{"at": "sky"}' and end == "tool_calls"


def test_log_probabilities_are_those_of_all_tokens(api: Api) -> None:
    text = f"<think>Hm.</think>{LOOK}"
    whole = said(api, text + "END", tools=TOOLS, logprobs=True, top_logprobs=1, stop=["END"])["choices"][0]
    chunks = streamed(api, text + "END", tools=TOOLS, logprobs=True, top_logprobs=1, stop=["END"])
    shown = [
        one
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["logprobs"]
        for one in choice["logprobs"]["content"]
    ]
    assert "".join(one["token"] for one in whole["logprobs"]["content"]) == text
    assert shown == whole["logprobs"]["content"]
    sizes = [
        len(choice["logprobs"]["content"]) for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]
    ]
    assert max(sizes) <= MOST_WAITING, "a long call does not become one event"


# ---- calls that must be made -------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_call_that_must_be_made_is_begun_in_the_prompt_and_bound_by_a_grammar(api: Api, choice: Any) -> None:
    free = said(api, "x", tools=TOOLS)["usage"]["prompt_tokens"]
    text = '{"name": "look", "arguments": {"at": "sky"}}'
    body = said(api, text, tools=TOOLS, tool_choice=choice)
    message = body["choices"][0]["message"]
    assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": "sky"}'}
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    generation = api.service.generations[-1]
    assert prompt(api).endswith(b"<|im_start|>assistant\n<tool_call>\n")
    assert body["usage"]["prompt_tokens"] == free + len("<tool_call>\n")
    assert "wait" in generation.sampling.grammar if choice == "required" else "wait" not in generation.sampling.grammar
    pieces = [
        call["function"].get("arguments")
        for chunk in streamed(api, text, tools=TOOLS, tool_choice=choice)
        for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert pieces == ["", *'{"at": "sky"}']


def test_a_schema_that_cannot_be_enforced_is_refused_when_the_call_must_be_made(api: Api) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
    reply = api.chat(messages=ASKED, tools=[tool], tool_choice="required")
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "tools"
    assert "not" in reply.json()["error"]["message"]
    assert said(api, "hi", tools=[tool])["choices"][0]["message"]["content"] == "hi"


def test_a_free_call_may_stand_instead_of_an_answer_in_the_format(api: Api) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["blue"]}}, "required": ["colour"]}
    wanted = {
        "tools": TOOLS,
        "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
    }
    message = said(api, LOOK, **wanted)["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["name"] == "look" and message["content"] is None
    assert said(api, '{"colour": "blue"}', **wanted)["choices"][0]["message"]["content"] == '{"colour": "blue"}'
    grammar = api.service.generations[-1].sampling.grammar
    assert "colour" in grammar and "<tool_call>" in grammar
    assert prompt(api).endswith(b"<|im_start|>assistant\n")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
    reply = api.chat(messages=ASKED, **{**wanted, "tools": [tool]})
    assert reply.status_code == 400 and "or of one of the tools" in reply.json()["error"]["message"]


# ---- what is refused, and what is warned of ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "paramters": {}}}]}, "tools[0].function.paramters"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "a"}, "x": 1}}, "tool_choice.x"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"n": "a"}}}, "tool_choice.function.n"),
        ({"tools": TOOLS, "grammar": 'root ::= "a"'}, "grammar"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"reasoning_format": "none"}, "reasoning_format"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_by_name(api: Api, body: dict[str, Any], param: str) -> None:
    reply = api.chat(messages=ASKED, **body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert api.service.generations == []


def test_an_answer_goes_on_with_the_last_message(api: Api) -> None:
    talk = [*ASKED, {"role": "assistant", "content": "I see "}]
    assert api.chat(messages=talk, continue_final_message=True, add_generation_prompt=False).status_code == 200
    assert prompt(api).endswith(b"<|im_start|>assistant\nI see ")


def test_a_history_of_calls_is_in_the_prompt(api: Api) -> None:
    message = said(api, f"<think>Hm.</think>{LOOK}", tools=TOOLS)["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "blue"}
    api.service.answer = "It is blue."
    reply = api.chat(messages=[*ASKED, message, result], tools=TOOLS)
    assert reply.json()["choices"][0]["message"]["content"] == "It is blue."
    shown = prompt(api).decode()
    assert '<think>Hm.</think><tool_call>{"name": "look", "arguments": {"at": "sky"}}</tool_call>' in shown
    assert "<|im_start|>tool\nblue<|im_end|>" in shown


@pytest.mark.parametrize("template", [None])
def test_a_model_without_tools_gets_them_as_text_with_a_warning(api: Api) -> None:
    api.service.answer = '{"name": "look", "arguments": {"at": "sky"}}'
    reply: httpx.Response = api.chat(messages=ASKED, tools=TOOLS)
    assert reply.headers["x-tenantd-warning"] == WITHOUT_TOOLS
    assert reply.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"
    assert "x-tenantd-warning" not in api.chat(messages=ASKED).headers
