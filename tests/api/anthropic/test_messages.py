"""Anthropic's messages with its official client; the model's answer is scripted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from tenantd.errors import EngineFailure
from tests.api.conftest import Api
from tests.api.openai.test_tools import LOOK, WAIT
from tests.api.responses.test_responses import api as api
from tests.api.responses.test_responses import prompt_of
from tests.support.anthropic_http import on_socket

ASKED: Any = [{"role": "user", "content": "Look around."}]
TOOLS: Any = [
    {
        "name": "look",
        "description": "Looks.",
        "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
    {"name": "wait", "input_schema": {"type": "object"}},
]


@pytest.fixture
def client(api: Api) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        api_key="td_acme", base_url="http://tenantd", http_client=on_socket(api.path), max_retries=0
    ) as one:
        yield one


def create(api: Api, client: anthropic.Anthropic, answer: str = "Hello, wörld!", **body: Any) -> Any:
    api.service.answer = answer
    return client.messages.create(**{"model": "tiny", "max_tokens": 400, "messages": ASKED, **body})


def post(api: Api, body: dict[str, Any], path: str = "/v1/messages", **headers: str) -> Any:
    return api.client.post(path, json=body, headers={"x-api-key": "td_acme", **headers})


def test_a_conversation_gets_a_message(api: Api, client: anthropic.Anthropic) -> None:
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    message = create(api, client, system=system, metadata={"user_id": "x"}, extra_body={"temperature": 0.5})
    assert (message.type, message.role, message.model, message.stop_reason) == (
        "message",
        "assistant",
        "tiny",
        "end_turn",
    )
    assert [block.text for block in message.content] == ["Hello, wörld!"]
    stream = api.service.streams[-1]
    assert message.id == "msg_" + stream.id.removeprefix("req_")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (stream.prompt_tokens, 14)
    assert prompt_of(api).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nLook around.<|im_end|>"
    )
    assert api.service.generations[-1].sampling.temperature == 0.5
    assert post(api, {"messages": ASKED}).is_success  # and is as described
    count = client.messages.count_tokens(model="tiny", messages=ASKED, system=system)
    assert count.input_tokens == stream.prompt_tokens and len(api.service.streams) == 2
    assert post(api, {"messages": ASKED}, "/v1/messages/count_tokens").is_success


def test_a_stream_agrees_with_the_whole(api: Api, client: anthropic.Anthropic) -> None:
    answer = f"<think>Hm. So.</think>Look:{LOOK}{WAIT}"
    whole = create(api, client, answer, tools=TOOLS)
    with client.messages.stream(model="tiny", max_tokens=400, messages=ASKED, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    for message in (whole, final):
        thought, said, look, wait = message.content
        assert (thought.thinking, said.text, message.stop_reason) == ("Hm. So.", "Look:", "tool_use")
        assert (look.name, look.input, wait.name, wait.input) == ("look", {"at": "sky"}, "wait", {})
        assert look.id.startswith("toolu_") and look.id != wait.id
    assert (
        whole.usage.to_dict() == final.usage.to_dict() and kinds[0] == "message_start" and kinds[-1] == "message_stop"
    )


def test_events_are_as_described_and_in_order(api: Api) -> None:
    api.service.answer = "Hi!"
    answer = post(api, {"messages": ASKED, "stream": True})
    described = api.contract.operation("POST", "/v1/messages")
    assert described is not None
    schema = described["responses"]["200"]["content"]["text/event-stream"]["schema"]["contentSchema"]
    lines = answer.text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [line.removeprefix("event: ") for line in lines if line.startswith("event: ")] == [e["type"] for e in events]
    assert [event["type"] for event in events] == [
        *("message_start", "ping", "content_block_start"),
        *["content_block_delta"] * 3,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert events[0]["message"]["usage"]["input_tokens"] > 0
    for event in events:
        api.contract.check_value(event, schema)


def test_results_of_tools_go_on_with_the_conversation(api: Api, client: anthropic.Anthropic) -> None:
    first = create(api, client, f"<think>Hm</think>Well.{LOOK}", tools=TOOLS)
    result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": [{"type": "text", "text": "blue"}]}
    after = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    create(api, client, "Done.", messages=after, tools=TOOLS)
    assert prompt_of(api).endswith(
        "<|im_start|>assistant\n"
        '<think>Hm</think>Well.<tool_call>{"name": "look", "arguments": {"at": "sky"}}</tool_call>'
        "<|im_end|>\n<|im_start|>tool\nblue<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not api.service.generations[-1].sampling.grammar
    create(api, client, "sky", messages=ASKED, tools=TOOLS, tool_choice={"type": "any"})
    assert api.service.generations[-1].sampling.grammar
    create(api, client, "x", messages=ASKED, tools=TOOLS, tool_choice={"type": "none"})
    assert "<tools>" not in prompt_of(api)


def test_an_assistants_last_message_is_continued(api: Api, client: anthropic.Anthropic) -> None:
    create(api, client, " fine.", messages=[*ASKED, {"role": "assistant", "content": "I am"}])
    assert prompt_of(api).endswith("<|im_start|>assistant\nI am")


def test_ends_have_anthropics_names(api: Api, client: anthropic.Anthropic) -> None:
    assert create(api, client, max_tokens=5).stop_reason == "max_tokens"
    stopped = create(api, client, stop_sequences=["wör"])
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == ("stop_sequence", "wör", "Hello, ")


def test_errors_have_anthropics_form(api: Api, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        create(api, client, extra_body={"temperature": 9})
    body: Any = refused.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        create(api, client, model="claude")
    for key, status, kind in (("td_wrong", 401, "authentication_error"), ("", 401, "authentication_error")):
        answer = post(api, {"messages": ASKED}, **{"x-api-key": key})
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    wrong = api.client.get("/v1/messages", headers={"x-api-key": "td_acme"})
    assert (wrong.status_code, wrong.json()["type"]) == (405, "error")
    api.service.failure, api.service.fail_after = EngineFailure("it broke"), 3
    answer = post(api, {"messages": ASKED, "stream": True})
    assert json.loads(answer.text.splitlines()[-2].removeprefix("data: "))["error"]["code"] == "engine_failure"
    api.service.fail_after = 0
    assert post(api, {"messages": ASKED}).json()["error"]["type"] == "api_error"


def test_a_key_is_taken_from_either_header_and_only_here(api: Api) -> None:
    body = {"messages": ASKED}
    both = {"authorization": "Bearer td_acme"}
    assert post(api, body, **both).is_success
    assert post(api, body, authorization="Bearer td_globex").status_code == 400
    assert api.client.post("/v1/messages", json=body, headers={"authorization": "Bearer td_acme"}).is_success
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(api.path)), base_url="http://tenantd") as client:
        assert client.post("/messages/", json=body, headers={"x-api-key": "td_acme"}).is_success
    chat = api.client.post("/v1/chat/completions", json={"messages": ASKED}, headers={"x-api-key": "td_acme"})
    assert chat.status_code in (400, 401)
    twice = [("x-api-key", "td_acme"), ("x-api-key", "td_acme")]
    assert api.client.post("/v1/messages", json=body, headers=twice).status_code == 400


USE = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "invalid_request"),
    ({"messages": 5}, "messages", "invalid_request"),
    ({"messages": [5]}, "messages", "invalid_request"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "invalid_request"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_request"),
    ({"messages": [{"role": "user", "content": []}]}, "messages", "invalid_request"),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]", "unsupported"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source", "unsupported"),
    ({"messages": [{"role": "user", "content": [USE]}]}, "messages[0].content[0]", "unsupported"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]", "invalid_request"),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]},
        "messages[0].content[0]",
        "invalid_request",
    ),
    (
        {"messages": [{"role": "assistant", "content": [{**USE, "input": "{}"}]}]},
        "messages[0].content[0]",
        "invalid_request",
    ),
    ({"messages": [{"role": "assistant", "content": [{**USE, "name": "a b"}]}]}, "messages", "invalid_request"),
    ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name", "invalid_request"),
    ({"system": 5}, "system", "invalid_request"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools", "unsupported"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools", "invalid_request"),
    ({"tools": TOOLS, "tool_choice": "auto"}, "tool_choice", "invalid_request"),
    ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice", "invalid_request"),
    ({"thinking": {"type": "disabled"}}, "thinking", "invalid_request"),
    ({"output_config": {"effort": "high"}}, "output_config.effort", "invalid_request"),
    ({"mcp_servers": [{}]}, "mcp_servers", "invalid_request"),
    ({"stop_sequences": [""]}, "stop_sequences[0]", "invalid_request"),
    ({"colour": 1}, "colour", "invalid_request"),
]


def test_what_is_wrong_is_refused(api: Api) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        for body, param, code in WRONG:
            answer = post(api, {"messages": ASKED, **body}, path)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error
    for choice, said in (
        (
            "auto",
            "must be an object such as {\"type\": \"auto\"}, with a type of 'auto', 'any', 'tool' or 'none' "
            "(got 'auto')",
        ),
        ({"name": "x"}, "needs a type: 'auto', 'any', 'tool' or 'none'"),
        ({"type": None}, "the type is null; it must be 'auto', 'any', 'tool' or 'none'"),
        ({"type": "all"}, "the type is 'all'; it must be 'auto', 'any', 'tool' or 'none'"),
    ):
        answer = post(api, {"messages": ASKED, "tools": TOOLS, "tool_choice": choice})
        assert answer.json()["error"]["message"] == f"tool_choice: {said}"
    assert not api.service.generations
    assert post(api, {"messages": ASKED, "thinking": {"type": "enabled", "budget_tokens": 2000}}).is_success
