"""Shapes a conversation with calls of tools for a template: as the template knows them, or as plain text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from tenantd.text.abilities import Abilities
from tenantd.text.chat_messages import Message
from tenantd.text.dialects import instructions
from tenantd.text.system_prompt import joined
from tenantd.text.tools import Tool

SCHEMA_WORDS: Final = frozenset(
    [
        "type",
        "object",
        "array",
        "string",
        "number",
        "integer",
        "boolean",
        "null",
        "properties",
        "required",
        "items",
        "enum",
        "const",
        "description",
        "title",
        "default",
        "anyOf",
        "oneOf",
        "allOf",
        "nullable",
        "format",
        "additionalProperties",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "$ref",
        "$defs",
        "definitions",
        "function",
        "name",
        "parameters",
        "strict",
    ]
)
"""Words of schemas that templates look at. None of them spells a special token."""


def call_id(number: int) -> str:
    """The id of a conversation's call for templates, of which some want exactly nine characters."""
    return f"{number:09d}"


def native(conversation: Sequence[Message], abilities: Abilities) -> list[Message]:
    """A conversation for a template that knows of calls."""
    numbered = [_thought(message, abilities) for message in _numbered(conversation)]
    if abilities.is_parallel:
        return numbered
    return list(_one_by_one(numbered))


def _thought(message: Message, abilities: Abilities) -> Message:
    """gpt-oss knows either reasoning or content beside a call; its template shows both as reasoning."""
    if abilities.reasoning != "thinking" or not (message.calls and message.content and message.reasoning):
        return message
    return message._replace(content="", reasoning=joined(message.reasoning, message.content))


def _numbered(conversation: Sequence[Message]) -> Iterator[Message]:
    """With ids in order of the calls, and results with the names of their tools."""
    known: dict[str, tuple[str, str]] = {}  # by the client's id: ours, and the tool's name
    number = 0
    for message in conversation:
        calls = []
        for call in message.calls:
            number += 1
            known[call.id] = call_id(number), call.name
            calls.append(call._replace(id=call_id(number)))
        if message.role == "tool" and message.answers in known:
            own, name = known[message.answers]
            yield message._replace(answers=own, name=name)
        else:
            yield message._replace(calls=tuple(calls))


def _one_by_one(conversation: Sequence[Message]) -> Iterator[Message]:
    """For templates that know one call at a time: each call of a message with its own result after it."""
    at = 0
    while at < len(conversation):
        message = conversation[at]
        at += 1
        if len(message.calls) < 2:
            yield message
            continue
        results: list[Message] = []
        while at < len(conversation) and conversation[at].role == "tool":
            results.append(conversation[at])
            at += 1
        for place, call in enumerate(message.calls):
            spoken = message if place == 0 else message._replace(content="", reasoning="")
            yield spoken._replace(calls=(call,))
            yield from (result for result in results if result.answers == call.id)


def generic(conversation: Sequence[Message], tools: Sequence[Tool], *, has_system_role: bool) -> list[Message]:
    """A conversation as plain text, for a template that knows of no calls: calls are what the model is asked to write,
    and results are said by the user."""
    conversation = list(_numbered(conversation))
    turns = [_as_text(message) for message in conversation]
    # Results, and what the user says after them, are one turn: some templates want the roles to alternate.
    merged: list[Message] = []
    for is_told, group in groupby(zip(turns, conversation, strict=True), lambda pair: pair[0].role == "user"):
        pairs = list(group)
        if is_told and any(original.role == "tool" for _, original in pairs):
            merged.append(Message("user", joined(*(turn.content for turn, _ in pairs))))
        else:
            merged += [turn for turn, _ in pairs]
    if not tools:
        return merged
    text = instructions(tools)
    first = merged[0] if merged else None
    if first is not None and first.role == ("system" if has_system_role else "user"):
        content = joined(first.content, text) if has_system_role else joined(text, first.content)
        return [first._replace(content=content), *merged[1:]]
    return [Message("system" if has_system_role else "user", text), *merged]


def _as_text(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"The result of {message.name or 'the call'}:\n{message.content}")
    if not message.calls:
        return message
    calls = [{"name": call.name, "arguments": call.arguments} for call in message.calls]
    text = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
    return message._replace(content=joined(message.content, text), calls=())


def shown_calls(message: Message, abilities: Abilities, hide: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The calls of a message as templates get them. `hide` hides the texts of a JSON value."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {
                "name": hide(call.name),
                "arguments": json.dumps(hide(call.arguments), ensure_ascii=False)
                if abilities.arguments_are_text
                else hide(call.arguments),
            },
        }
        for call in message.calls
    ]


def shown_tools(tools: Sequence[Tool], hide: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Tools as templates get them. `hide` hides the texts of a JSON value, but for words of schemas."""
    return [
        {
            "type": "function",
            "function": {
                "name": hide(tool.name),
                "description": hide(tool.description),
                "parameters": hide(tool.parameters),
            },
        }
        for tool in tools
    ]
