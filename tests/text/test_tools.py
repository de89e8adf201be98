"""What tools, choices and histories may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tenantd.errors import InvalidRequest
from tenantd.text.chat_messages import read_messages
from tenantd.text.tools import MOST_TOOLS, NO_PARAMETERS, Tool, Tools, read_tools


def tool(name: Any = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def test_tools_are_read_with_their_defaults() -> None:
    assert read_tools([tool()], None, parallel=None) == Tools((Tool("f", "", NO_PARAMETERS),))
    read = read_tools(
        [tool("g", description="d", parameters={"properties": {}}, strict=True)], "required", parallel=False
    )
    assert read == Tools((Tool("g", "d", {"type": "object", "properties": {}}),), "required", "", parallel=False)
    assert read.forced == read.tools
    named = read_tools([tool("a"), tool("b")], {"type": "function", "function": {"name": "b"}}, parallel=None)
    assert named is not None and [one.name for one in named.forced] == ["b"]


@pytest.mark.parametrize(("tools", "choice"), [(None, None), ([], "auto"), ([tool()], "none"), (None, "none")])
def test_without_a_tool_to_call_there_are_none(tools: Any, choice: Any) -> None:
    assert read_tools(tools, choice, parallel=True) is None


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (["x"], r"tools\[0\] must be an object"),
        ([{"type": "web_search"}], "only 'function' is supported"),
        ([{"type": "function"}], "function must be an object"),
        ([tool("a b")], "1 to 64 characters"),
        ([tool('"')], "1 to 64 characters"),
        ([tool("é")], "1 to 64 characters"),
        ([tool("a" * 65)], "1 to 64 characters"),
        ([tool(None)], "null"),
        ([tool("a"), tool("b"), tool("a")], r"tools\[2\].function.name is 'a' again"),
        ([tool(description=1)], "must be a string"),
        ([tool(description="x" * 20_000)], "at most 16384 characters"),
        ([tool(strict="yes")], "true or false"),
        ([tool(parameters=[])], "must be a JSON schema"),
        ([tool(parameters={"type": "string"})], "always an 'object'"),
        ([tool(parameters=deep(40))], "nested deeper than 64"),
        ([tool(parameters={"enum": ["x"] * 30_000})], "too large"),
        ([tool(parameters={"title": "x" * 300_000})], "too large"),
        ([tool(parameters={"title": "\ud800"})], "not valid Unicode"),
        ([tool(f"f{number}") for number in range(10_000)], f"at most {MOST_TOOLS}"),
    ],
)
def test_bad_tools_are_refused_with_what_is_wrong(tools: Any, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected) as caught:
        read_tools(tools, None, parallel=None)
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("any", "'any' is not supported"),
        (1, "1 is not supported"),
        ({"type": "allowed_tools", "allowed_tools": {}}, "'allowed_tools' is not supported"),
        ({"type": "function"}, "null"),
        ({"type": "function", "function": {"name": "g"}}, "'g', which is not the name of one of the tools"),
    ],
)
def test_bad_choices_are_refused_with_what_is_wrong(choice: Any, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected) as caught:
        read_tools([tool()], choice, parallel=None)
    assert caught.value.param == "tool_choice"
    with pytest.raises(InvalidRequest, match="needs tools"):
        read_tools([], "required", parallel=None)


# ---- histories ----------------------------------------------------------------------------------------------------


def calls(**function: Any) -> dict[str, Any]:
    given = {"name": "f", "arguments": "{}", **function}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": given}]}


def test_a_history_with_calls_is_read() -> None:
    user, asked, answered = read_messages(
        [
            {"role": "user", "content": "hi"},
            {**calls(arguments='{"a": [1.5, "é"]}'), "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ]
    )
    assert (user.calls, asked.content, asked.reasoning) == ((), "", "hm")
    assert asked.calls == (("c", "f", {"a": [1.5, "é"]}),)
    assert answered.answers == "c"
    assert read_messages([calls(arguments="")])[0].calls[0].arguments == {}
    assert read_messages([{"role": "tool", "content": "1"}])[0].answers == ""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "function", "name": "f", "content": "1"}, "use the role 'tool'"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "use the role 'tool'"),
        ({"role": "tool", "tool_call_id": "x", "content": "1"}, "'x', not the id of an earlier call"),
        ({"role": "tool", "tool_call_id": 1, "content": "1"}, "tool_call_id must be a string"),
        ({**calls(), "role": "user", "content": "x"}, "only an assistant's"),
        ({"role": "assistant", "tool_calls": "f"}, "must be a list"),
        ({"role": "assistant", "tool_calls": [1]}, "must have the type 'function'"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, "id must be a string"),
        (calls(name="a b"), "which is not a valid name of a tool"),
        (calls(arguments="{"), "must be a JSON object"),
        (calls(arguments="[]"), "must be a JSON object"),
        (calls(arguments='{"a": NaN}'), "must be a JSON object"),
        (calls(arguments="[" * 100_000), "must be a JSON object"),
        (calls(arguments='{"a":' * 100 + "1" + "}" * 100), "nested deeper"),
        (calls(arguments=json.dumps({"a": "\ud800"})), "not valid Unicode"),
        ({"role": "assistant", "tool_calls": [calls()] * 5000}, "at most 4096 tool calls"),
        ({**calls(), "reasoning_content": 1}, "must be a string"),
    ],
)
def test_a_bad_history_is_refused_with_what_is_wrong(message: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected) as caught:
        read_messages([{"role": "user", "content": "hi"}, message])
    assert caught.value.param == "messages" and "messages" in caught.value.message
