"""What a chat template knows of tools, found out by rendering a short conversation with and without them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tenantd.text.template import ChatTemplate

_FIRST, _SECOND, _KEY, _THOUGHT, _TOOL = "qzfirst", "qzsecond", "qzkey", "qzthought", "qztool"
_FIELDS: Final = ("reasoning_content", "thinking", "reasoning")


class Abilities(NamedTuple):
    """`has_tools`: it lists tools. `has_calls`: it shows calls and their results. `is_parallel`: also several in one
    message. `arguments_are_text`: it wants arguments as JSON text rather than as an object. `reasoning`: the field of a
    message whose text it shows as reasoning, "" for none."""

    has_tools: bool = False
    has_calls: bool = False
    is_parallel: bool = False
    arguments_are_text: bool = False
    reasoning: str = ""


def abilities_of(template: ChatTemplate) -> Abilities:
    """Try the template out."""
    tools = [_tool()]
    has_tools = _TOOL in _tried(template, [_said("user")], tools)
    for is_text in (False, True):
        shown = _tried(template, _with_calls(1, is_text), tools)
        if _FIRST in shown and _KEY in shown and '\\"' not in shown.partition(_FIRST)[2]:
            several = _tried(template, _with_calls(2, is_text), tools)
            return Abilities(has_tools, True, _FIRST in several and _SECOND in several, is_text, _reasoning(template))
    return Abilities(has_tools, reasoning=_reasoning(template))


def _reasoning(template: ChatTemplate) -> str:
    """Templates may show only that of the turn that still goes on, so it stands before a call's result."""
    for field in _FIELDS:
        thought = {field: _THOUGHT}
        for talk in (_with_calls(1, False, thought), [_said("user"), {**_said("assistant"), **thought}, _said("user")]):
            if _THOUGHT in _tried(template, talk, [_tool()]):
                return field
    return ""


def _tried(template: ChatTemplate, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    try:
        return template.render_as_is(messages, tools=tools)
    except Exception:  # a template is a program and can fail in any way
        return ""


def _said(role: str) -> dict[str, Any]:
    return {"role": role, "content": "a"}


def _tool() -> dict[str, Any]:
    properties = {"x": {"type": "string", "description": "d"}}
    schema = {"type": "object", "properties": properties, "required": ["x"]}
    return {"type": "function", "function": {"name": _TOOL, "description": "d", "parameters": schema}}


def _with_calls(number: int, is_text: bool, more: dict[str, str] | None = None) -> list[dict[str, Any]]:
    names, ids = (_FIRST, _SECOND)[:number], ("000000001", "000000002")
    arguments: Any = f'{{"{_KEY}": "x"}}' if is_text else {_KEY: "x"}
    calls = [
        {"id": own, "type": "function", "function": {"name": name, "arguments": arguments}}
        for own, name in zip(ids, names, strict=False)
    ]
    asked = {"role": "assistant", "content": "", "tool_calls": calls, **(more or {})}
    results = [
        {"role": "tool", "tool_call_id": own, "name": name, "content": "b"}
        for own, name in zip(ids, names, strict=False)
    ]
    return [_said("user"), asked, *results]
