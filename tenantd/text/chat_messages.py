"""Validates the messages of a chat request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tenantd.errors import InvalidRequest
from tenantd.text.excerpt import excerpt
from tenantd.text.vocabulary import utf8

MOST_MESSAGES: Final = 4096
MOST_PARTS: Final = 4096
"""Maximum text parts of all messages together."""
MOST_NAME_CHARACTERS: Final = 64  # as at OpenAI
ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

PART_KINDS: Final = ("text", "refusal")
"""Types of content parts; the text is in the field of the same name."""


class Message(NamedTuple):
    """`role` is system, user, assistant or tool. `name` is "" if there is none. If it `leads`, the system prompt of its
    tenant stands before its content."""

    role: str
    content: str
    name: str = ""
    leads: bool = False


def read_messages(messages: Sequence[dict[str, Any]]) -> list[Message]:
    """Check messages as OpenAI's clients send them. Raises InvalidRequest (`messages`)."""
    if not messages:
        raise _refused("must have at least one message")
    if len(messages) > MOST_MESSAGES:
        raise _refused(
            f"at most {MOST_MESSAGES} are allowed in one request (got {len(messages)}); leave out the oldest"
        )
    if sum(_parts(message) for message in messages) > MOST_PARTS:
        raise _refused(f"at most {MOST_PARTS} content parts are allowed in one request; join some")
    return [_read_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _parts(message: Any) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    return len(content) if isinstance(content, list) else 0


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise _refused(f"{where} must be an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _refused(f"{where}.role is {excerpt(role)}; it must be one of {', '.join(ROLES)}")
    if message.get("tool_calls") or message.get("function_call"):
        raise _refused(f"{where} calls a tool, which this server does not support")
    name = _name(message.get("name"), where)
    content = message.get("content")
    if content is None and role == "assistant":  # how clients send back an answer without content
        content = message.get("refusal") or ""
    return Message(ROLES[role], _checked(_text(content, where)), name)


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
            raise _refused(f"{where}.content[{index}] is not a text part; this server handles only text")
        parts.append(part[kind])
    return "\n".join(parts)


def _checked(text: str) -> str:
    utf8(text, "messages")
    return text


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"messages: {reason}", param="messages")
