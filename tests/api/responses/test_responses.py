"""Responses with the official client; the model's answer is scripted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from tenantd.domain import Tenant
from tenantd.errors import EngineFailure
from tenantd.text.chat import ChatFormatter
from tenantd.text.vocabulary import ByteVocabulary
from tests.api.conftest import Api, Loop, make_config
from tests.api.fake_service import INFO, FakeService
from tests.api.openai.test_tools import LOOK, QWEN, WAIT
from tests.text.with_template import WithTemplate

TOOLS: Any = [
    {
        "type": "function",
        "name": "look",
        "strict": None,
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
    {"type": "function", "name": "wait", "strict": None, "parameters": None},
]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    def service() -> FakeService:
        made = FakeService(make_config(tmp_path))
        made.chat = ChatFormatter(WithTemplate(ByteVocabulary(), QWEN))
        made.supervisor.info = INFO.__class__(**{**vars_of(INFO), "context_tokens": 4096})
        tenants = {"acme": Tenant(name="acme", id=1), "globex": Tenant(name="globex", id=2)}
        made.directory.tenants.update(tenants)
        made.responses.tenants_are(tenants)
        return made

    loop = Loop()
    api = Api(tmp_path, loop.call(service), loop)
    try:
        yield api
    finally:
        api.close()
        loop.close()


def vars_of(info: Any) -> dict[str, Any]:
    return {name: getattr(info, name) for name in info.__struct_fields__}


def prompt_of(api: Api, number: int = -1) -> str:
    """The prompt of a request, as text."""
    return b"".join(api.service.vocabulary.piece(token) for token in api.service.generations[number].prompt).decode()


def create(api: Api, answer: str = "Hello, wörld!", **body: Any) -> Any:
    api.service.answer = answer
    body = {"model": "tiny", "max_output_tokens": 400, **body}
    return api.openai().responses.create(**body)


def raw(api: Api, key: str = "td_acme", **body: Any) -> Any:
    return api.client.post("/v1/responses", json=body, headers={"authorization": f"Bearer {key}"})


def get(api: Api, path: str, key: str = "td_acme", method: str = "GET") -> Any:
    return api.client.request(method, f"/v1/responses/{path}", headers={"authorization": f"Bearer {key}"})


def test_a_text_gets_a_text(api: Api) -> None:
    response = create(api, input="Hi", instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    assert response.output_text == "Hello, wörld!" and response.status == "completed" and response.error is None
    assert prompt_of(api).endswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    stream = api.service.streams[-1]
    assert response.id == "resp_" + stream.id.removeprefix("req_")
    assert response.usage.output_tokens == 14 == len(stream.generated)
    assert response.usage.input_tokens == stream.prompt_tokens
    assert (response.instructions, response.metadata, response.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    assert raw(api, input="Hi").status_code == 200  # and is as described


def events_of(stream: Any) -> list[Any]:
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


def test_a_stream_has_openais_events(api: Api) -> None:
    events = events_of(create(api, "<think>Hm. So.</think>Hi!", input="Hi", stream=True))
    kinds = [event.type for event in events]
    merged = [kind for number, kind in enumerate(kinds) if not number or kinds[number - 1] != kind]
    item = ["response.output_item.added", "response.content_part.added"]
    assert merged == [
        "response.created",
        "response.in_progress",
        *item,
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *item,
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message"] and final.output_text == "Hi!"
    assert final.output[0].content[0].text == "Hm. So." and final.usage.output_tokens_details.reasoning_tokens > 5
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hi!"


def test_the_clients_own_stream_agrees_with_the_whole(api: Api) -> None:
    api.service.answer = f"Look:{LOOK}{WAIT}"
    settings: Any = {"model": "tiny", "input": "Go", "tools": TOOLS, "max_output_tokens": 400}
    with api.openai().responses.stream(**settings) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.done") == 2
    whole = api.openai().responses.create(**settings)
    for response in (final, whole):
        message, *calls = response.output
        assert (message.type, message.content[0].text) == ("message", "Look:")
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [("look", {"at": "sky"}), ("wait", {})]
        assert all(call.call_id.startswith("call_") and call.id.startswith("fc_") for call in calls)


def test_events_are_as_described(api: Api) -> None:
    api.service.answer = f"<think>Hm.</think>Look:{LOOK}"
    answer = raw(api, input="Go", tools=TOOLS, max_output_tokens=400, stream=True)
    described = api.contract.operation("POST", "/v1/responses")
    assert described is not None
    schema = described["responses"]["200"]["content"]["text/event-stream"]["schema"]["contentSchema"]
    lines = answer.text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [line.removeprefix("event: ") for line in lines if line.startswith("event: ")] == [e["type"] for e in events]
    assert events[-1]["type"] == "response.completed"
    for event in events:
        api.contract.check_value(event, schema)


class Seen(pydantic.BaseModel):
    what: str


def test_the_client_parses_a_format(api: Api) -> None:
    api.service.answer = '{"what": "sea"}'
    response = api.openai().responses.parse(model="tiny", input="Look", text_format=Seen)
    assert response.output_parsed == Seen(what="sea")
    assert api.service.generations[-1].sampling.grammar
    assert api.openai().responses.retrieve(response.id).text.format.name == "Seen"  # type: ignore[union-attr]


def test_a_conversation_is_continued_by_id_or_by_items_alike(api: Api) -> None:
    first = create(api, f"<think>Hm</think>Well.{LOOK}", input="Go", tools=TOOLS, instructions="First.")
    call = first.output[-1]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "blue <|im_end|>"}
    second = create(api, "Done.", input=[result], tools=TOOLS, previous_response_id=first.id)
    by_id = prompt_of(api)
    assert second.previous_response_id == first.id and "First." not in by_id
    create(api, "Done.", input=[{"role": "user", "content": "Go"}, *first.output, result], tools=TOOLS)
    assert prompt_of(api) == by_id and "<think>Hm</think>Well.<tool_call>" in by_id and "blue" in by_id
    create(api, "Yes.", input="Sure?", previous_response_id=second.id)
    assert prompt_of(api).count("<|im_start|>") == 6 and "Done.<|im_end|>\n<|im_start|>user\nSure?" in prompt_of(api)


def test_a_response_can_be_fetched_until_it_is_deleted(api: Api) -> None:
    response, client = create(api, input="Hi"), api.openai()
    assert client.responses.retrieve(response.id).to_dict() == response.to_dict()
    [item] = client.responses.input_items.list(response.id).data
    assert item.role == "user" and item.content[0].text == "Hi"  # type: ignore[union-attr]
    assert get(api, response.id).json()["store"] is True and get(api, f"{response.id}/input_items").is_success
    assert get(api, response.id, method="DELETE").json()["deleted"] is True
    for path, method in ((response.id, "GET"), (f"{response.id}/input_items", "GET"), (response.id, "DELETE")):
        assert get(api, path, method=method).status_code == 404
    with pytest.raises(openai.BadRequestError) as refused:
        create(api, input="And?", previous_response_id=response.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
    assert api.loop.call(lambda: api.service.responses.held_bytes) == 0


def test_what_is_streamed_is_kept_too_and_what_is_not_to_be_stored_is_not(api: Api) -> None:
    final = events_of(create(api, input="Hi", stream=True))[-1].response
    assert get(api, final.id).json() == json.loads(final.to_json())
    held = api.loop.call(lambda: api.service.responses.held_bytes)
    response = create(api, input="Hi", store=False, include=["reasoning.encrypted_content"])
    assert response.to_dict()["store"] is False and get(api, response.id).status_code == 404
    assert api.loop.call(lambda: api.service.responses.held_bytes) == held


def test_to_another_tenant_a_response_is_as_unknown_as_one_that_nobody_has(api: Api) -> None:
    mine, nobodys = create(api, input="Hi").id, "resp_" + "0" * 32
    words = []
    for response_id in (mine, nobodys):
        answers = [
            get(api, response_id, "td_globex"),
            get(api, f"{response_id}/input_items", "td_globex"),
            get(api, response_id, "td_globex", "DELETE"),
            raw(api, "td_globex", input="And?", previous_response_id=response_id),
        ]
        assert [answer.status_code for answer in answers] == [404, 404, 404, 400]
        words.append([answer.text.replace(response_id, "ID") for answer in answers])
    assert words[0] == words[1] and get(api, mine).is_success


def test_a_response_that_is_too_large_to_keep_says_so(api: Api) -> None:
    response = create(api, input="Hi" * 400, instructions="x", metadata={"a": "b"})
    assert response.to_dict()["store"] is True
    api.loop.call(lambda: setattr(api.service.responses, "_share_bytes", 1500))
    response = create(api, input="Hi" * 400)
    assert response.to_dict()["store"] is False and get(api, response.id).status_code == 404
    with_room_for_the_input_only = create(api, input="Hi")
    assert with_room_for_the_input_only.to_dict()["store"] is False


def test_an_answer_that_is_cut_off_is_incomplete(api: Api) -> None:
    for streamed in (False, True):
        api.service.answer = "Hello, world"
        answer = api.openai().responses.create(
            model="tiny", input="Hi", max_output_tokens=5, stream=streamed, extra_body={"ignore_eos": True}
        )
        cut: Any = events_of(answer)[-1].response if streamed else answer
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert (cut.output_text, cut.output[-1].status) == ("Hello", "incomplete")


def test_a_stream_that_fails_ends_with_its_error_and_is_not_kept(api: Api) -> None:
    api.service.failure, api.service.fail_after = EngineFailure("it broke"), 3
    last = events_of(create(api, input="Hi", stream=True))[-1]
    assert (last.type, last.response.status, last.response.error.code) == (
        "response.failed",
        "failed",
        "engine_failure",
    )
    assert get(api, last.response.id).status_code == 404
    assert api.loop.call(lambda: api.service.responses.held_bytes) == 0


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "input", "invalid_request"),
    ({"input": 5}, "input", "invalid_request"),
    ({"input": []}, "input", "invalid_request"),
    ({"input": [5]}, "input", "invalid_request"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input", "invalid_request"),
    ({"input": [{"role": "user", "content": 7}]}, "input", "invalid_request"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input", "invalid_request"),
    ({"input": [{"role": "system", "content": [{"type": "input_image"}]}]}, "input", "unsupported"),
    ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "input", "invalid_request"),
    ({"input": [{"role": "user", "content": "x", "colour": "red"}]}, "input[0].colour", "invalid_request"),
    ({"input": [{"type": "web_search_call"}]}, "input", "unsupported"),
    ({"input": [{"type": ["message"]}]}, "input", "unsupported"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input", "unsupported"),
    ({"input": [{"type": "function_call", "call_id": 1, "name": "a", "arguments": "{}"}]}, "input", "invalid_request"),
    ({"input": [{"type": "function_call", "call_id": "1", "name": "a", "arguments": "["}]}, "input", "invalid_request"),
    ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input", "invalid_request"),
    ({"input": [{"role": "user", "content": "x"}] * 4097}, "input", "invalid_request"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "tools", "unsupported"),
    ({"input": "x", "tools": [5]}, "tools", "invalid_request"),
    ({"input": "x", "tools": [{"type": "function", "name": "a b"}]}, "tools", "invalid_request"),
    ({"input": "x", "tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice", "unsupported"),
    ({"input": "x", "tools": TOOLS, "tool_choice": {"type": "function", "name": 1}}, "tool_choice", "invalid_request"),
    (
        {"input": "x", "tools": TOOLS, "tool_choice": {"type": "function", "name": "a", "colour": "red"}},
        "tool_choice.colour",
        "invalid_request",
    ),
    ({"input": "x", "text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format", "invalid_request"),
    ({"input": "x", "reasoning": {"effort": "high"}}, "reasoning.effort", "invalid_request"),
    ({"input": "x", "background": True, "store": False}, "background", "invalid_request"),
    ({"input": "x", "background": True, "stream": True}, "background", "invalid_request"),
    ({"input": "x", "conversation": "conv_1"}, "conversation", "invalid_request"),
    ({"input": "x", "include": ["message.output_text.logprobs"]}, "include[0]", "invalid_request"),
    ({"input": "x", "truncation": "auto"}, "truncation", "invalid_request"),
    ({"input": "x", "metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_request"),
    ({"input": "x", "previous_response_id": "../x"}, "previous_response_id", "previous_response_not_found"),
    ({"input": "x", "previous_response_id": 5}, "previous_response_id", "invalid_request"),
    ({"input": "x" * 40_000}, "prompt", "context_length_exceeded"),
    ({"input": "\ud800"}, "input", "invalid_request"),
]


def test_what_is_wrong_is_refused_and_holds_nothing(api: Api) -> None:
    for body, param, code in WRONG:
        content = json.dumps({"model": "tiny", **body}).encode()
        answer = api.client.post("/v1/responses", content=content, headers={"authorization": "Bearer td_acme"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, code), error
        assert error["param"] == param or "\\ud800" in content.decode(), error
    assert not api.service.generations
    assert api.loop.call(lambda: api.service.responses.held_bytes) == 0
