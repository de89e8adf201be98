"""Validates the messages of a chat request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tenantd.errors import InvalidRequest
from tenantd.text.excerpt import excerpt
from tenantd.text.tools import NAME, check_json, parse_object
from tenantd.text.vocabulary import utf8

MOST_MESSAGES: Final = 4096
MOST_PARTS: Final = 4096
"""Maximum text parts of all messages together, and maximum calls."""
MOST_NAME_CHARACTERS: Final = 64  # as at OpenAI
MOST_ID_CHARACTERS: Final = 256
ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

PART_KINDS: Final = ("text", "refusal")
"""Types of content parts; the text is in the field of the same name."""
REASONING: Final = ("reasoning_content", "reasoning")
"""Fields of an assistant's message for what it thought before."""


class Call(NamedTuple):
    """A call of a tool in an earlier answer. `id` is the client's."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(NamedTuple):
    """`role` is system, user, assistant or tool. `name` is "" if there is none. If it `leads`, the system prompt of its
    tenant stands before its content. An assistant's may have `calls`, and `reasoning` that led to it. A tool's
    `answers` the call with this id, "" if it does not say which."""

    role: str
    content: str
    name: str = ""
    leads: bool = False
    calls: tuple[Call, ...] = ()
    answers: str = ""
    reasoning: str = ""


def read_messages(messages: Sequence[dict[str, Any]]) -> list[Message]:
    """Check messages as OpenAI's clients send them. Raises InvalidRequest (`messages`)."""
    if not messages:
        raise _refused("must have at least one message")
    if len(messages) > MOST_MESSAGES:
        raise _refused(
            f"at most {MOST_MESSAGES} are allowed in one request (got {len(messages)}); leave out the oldest"
        )
    if sum(_count(message, "content") for message in messages) > MOST_PARTS:
        raise _refused(f"at most {MOST_PARTS} content parts are allowed in one request; join some")
    if sum(_count(message, "tool_calls") for message in messages) > MOST_PARTS:
        raise _refused(f"at most {MOST_PARTS} tool calls are allowed in one request; leave out the oldest")
    found: list[Message] = []
    called: set[str] = set()
    for index, message in enumerate(messages):
        read = _read_message(message, f"messages[{index}]")
        called.update(call.id for call in read.calls)
        if read.answers and read.answers not in called:
            raise _refused(
                f"messages[{index}].tool_call_id is {excerpt(read.answers)}, not the id of an earlier call; "
                "send the assistant's message with its tool_calls, too"
            )
        found.append(read)
    return found


def _count(message: Any, field: str) -> int:
    content = message.get(field) if isinstance(message, dict) else None
    return len(content) if isinstance(content, list) else 0


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise _refused(f"{where} must be an object")
    role = message.get("role")
    if role == "function" or message.get("function_call"):
        raise _refused(f"{where} is obsolete: use the role 'tool' and tool_calls")
    if not isinstance(role, str) or role not in ROLES:
        raise _refused(f"{where}.role is {excerpt(role)}; it must be one of {', '.join(ROLES)}")
    calls = _calls(message.get("tool_calls"), where)
    if calls and role != "assistant":
        raise _refused(f"{where}.tool_calls: only an assistant's message may have them")
    answers = ""
    if role == "tool" and (answers := message.get("tool_call_id") or "") and not isinstance(answers, str):
        raise _refused(f"{where}.tool_call_id must be a string")
    name = _name(message.get("name"), where)
    content = message.get("content")
    if content is None and role == "assistant":  # how clients send back an answer without content
        content = message.get("refusal") or ""
    reasoning = next((message[field] for field in REASONING if message.get(field)), "") if role == "assistant" else ""
    if not isinstance(reasoning, str):
        raise _refused(f"{where}.reasoning_content must be a string")
    return Message(
        ROLES[role],
        _checked(_text(content, where)),
        name,
        calls=calls,
        answers=answers,
        reasoning=_checked(reasoning),
    )


def _calls(calls: Any, where: str) -> tuple[Call, ...]:
    if not calls:
        return ()
    if not isinstance(calls, list):
        raise _refused(f"{where}.tool_calls must be a list")
    return tuple(_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls))


def _call(call: Any, where: str) -> Call:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise _refused(f"{where} must have the type 'function', and function with a name and arguments")
    identifier, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
    if not isinstance(identifier, str) or not 0 < len(identifier) <= MOST_ID_CHARACTERS:
        raise _refused(f"{where}.id must be a string of 1 to {MOST_ID_CHARACTERS} characters")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise _refused(f"{where}.function.name is {excerpt(name)}, which is not a valid name of a tool")
    if isinstance(arguments, str):
        arguments = parse_object(arguments) if arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise _refused(f"{where}.function.arguments must be a JSON object, as a string")
    check_json(arguments, "messages", most_bytes=1 << 30)
    return Call(identifier, name, arguments)


def _name(name: Any, where: str) -> str:
    if name is None:
        return ""
    if not isinstance(name, str):
        raise _refused(f"{where}.name must be a string")
    if len(name) > MOST_NAME_CHARACTERS or not _checked(name).isprintable():
        raise _refused(
            f"{where}.name is {excerpt(name)}; it may have at most {MOST_NAME_CHARACTERS} printable characters"
        )
    return name


def _text(content: Any, where: str) -> str:
    """The text of a content: a string, or a list of text parts, which become lines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _refused(f"{where}.content must be a string or a list of text parts")
    parts: list[str] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in PART_KINDS or not isinstance(part.get(kind), str):
            raise _refused(f"{where}.content[{index}] is not a text part")
        parts.append(part[kind])
    return "\n".join(parts)


def _checked(text: str) -> str:
    utf8(text, "messages")
    return text


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"messages: {reason}", param="messages")
