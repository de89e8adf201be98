"""Tools with the official client: calls that the model must make, through real llama.cpp with random weights, so that
only the grammar makes them what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
import pydantic
import pytest

from tests.conformance.conftest import connect
from tests.support.daemon import Daemon
from tests.support.tiny_gguf import write_tiny_gguf

MESSAGES: Any = [{"role": "user", "content": "Look at the sky and at the sea."}]
MODEL = "tiny"


class Look(pydantic.BaseModel):
    """Looks at something."""

    at: Literal["sky", "sea"]
    seconds: Annotated[int, pydantic.Field(ge=1, le=60)]


class Wait(pydantic.BaseModel):
    """Waits."""

    model_config = pydantic.ConfigDict(extra="forbid")


class Seen(pydantic.BaseModel):
    """What was seen."""

    sky: Literal["blue", "grey"]


LOOK: Any = openai.pydantic_function_tool(Look)
TOOLS: Any = [LOOK, openai.pydantic_function_tool(Wait)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("tools")
    model = {"path": str(write_tiny_gguf(folder / "tiny.gguf")), "name": MODEL}
    engine = {"backend": "llama", "context_tokens": 1024, "slots": 2}
    with Daemon(folder, engine=engine, model=model) as daemon, connect(daemon, daemon.add_tenant("acme")) as one:
        yield one


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "Look"}}], ids=str)
def test_a_call_that_must_be_made_always_matches_its_schema(client: openai.OpenAI, choice: Any) -> None:
    names = set()
    for seed in range(6):
        settings: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "seed": seed, "temperature": 1.5}
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=200, **settings)
        (only,) = answer.choices
        assert only.finish_reason == "tool_calls" and only.message.content is None
        [call] = only.message.tool_calls or []
        assert call.type == "function"
        names.add(call.function.name)
        (Look if call.function.name == "Look" else Wait).model_validate_json(call.function.arguments)
        with client.chat.completions.stream(model=MODEL, messages=MESSAGES, max_tokens=200, **settings) as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_completion()
        assert "tool_calls.function.arguments.delta" in kinds and kinds[-1] == "tool_calls.function.arguments.done"
        [again] = streamed.choices[0].message.tool_calls or []
        assert (again.function.name, again.function.arguments) == (call.function.name, call.function.arguments)
    assert names == {"Look"} if choice != "required" else names <= {"Look", "Wait"}


def test_an_answer_with_tools_and_a_format_is_a_call_or_has_the_format(client: openai.OpenAI) -> None:
    kinds = set()
    for seed in range(12):
        answer = client.chat.completions.parse(
            model=MODEL, messages=MESSAGES, max_tokens=200, seed=seed, tools=[LOOK], response_format=Seen
        )
        (only,) = answer.choices
        if calls := only.message.tool_calls:
            [call] = calls
            assert only.finish_reason == "tool_calls" and isinstance(call.function.parsed_arguments, Look)
        else:
            assert only.finish_reason == "stop" and isinstance(only.message.parsed, Seen)
        kinds.add(bool(calls))
    assert kinds == {True, False}


def test_the_client_parses_the_arguments_of_a_call(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, max_tokens=200, seed=1, tools=[LOOK], tool_choice="required"
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Look)


def test_a_conversation_with_calls_and_results_goes_on(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=200, seed=1, tools=TOOLS, tool_choice="required"
    )
    message = answer.choices[0].message
    [call] = message.tool_calls or []
    talk: Any = [
        *MESSAGES,
        message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"seen": "<|end|>"})},
    ]
    after = client.chat.completions.create(
        model=MODEL, messages=talk, max_tokens=5, tools=TOOLS, extra_body={"ignore_eos": True}
    )
    assert after.usage is not None and after.usage.completion_tokens == 5
    with pytest.raises(openai.BadRequestError, match="not the id of an earlier call"):
        client.chat.completions.create(model=MODEL, messages=[*MESSAGES, talk[-1]], tools=TOOLS)


def test_the_raw_response_has_the_warning(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=5, tools=TOOLS, extra_body={"ignore_eos": True}
    )
    assert "does not support tools" in raw.headers["x-tenantd-warning"]
