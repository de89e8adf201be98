"""The messages of Anthropic's API, whose content consists of blocks, as messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tenantd.api.names import Foreign, Names, Taken
from tenantd.api.refusals import Unsupported
from tenantd.errors import InvalidRequest
from tenantd.text.chat_messages import MOST_MESSAGES, MOST_PARTS
from tenantd.text.excerpt import excerpt
from tenantd.text.tools import check_json

BLOCK_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("type", "text"),
    "image": ("type", "source"),
    "tool_result": ("type", "tool_use_id", "content"),
    "tool_use": ("type", "id", "name", "input"),
    "thinking": ("type", "thinking"),
    "redacted_thinking": ("type", "data"),
}
"""Kinds of blocks, and their fields that have an effect."""
BY_ROLE: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("text",),
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
}
BLOCK: Final[dict[str, Foreign]] = {
    "cache_control": Taken("affects speed only"),
    "citations": Taken("only the text is used"),
    "signature": Taken("reasoning is not signed"),
    "is_error": Taken("report errors in the content"),
    "caller": Taken("only the model calls tools"),
}
"""Fields of a block."""
SOURCE_FIELDS: Final = ("type", "media_type", "data", "url")
MOST_INPUT_BYTES: Final = 1 << 20

Message = dict[str, Any]


def messages_of(messages: list[Any], system: Any, names: Names) -> list[Message]:
    """The messages of a chat. Raises InvalidRequest."""
    if len(messages) > MOST_MESSAGES:
        raise refused(f"at most {MOST_MESSAGES} are allowed in one request (got {len(messages)})")
    reader = _Reader(names)
    if system is not None:
        text = "\n\n".join(block["text"] for _, block in reader.blocks(system, "system", "system"))
        if text:
            reader.messages.append({"role": "system", "content": text})
    for index, message in enumerate(messages):
        reader.take(message, f"messages[{index}]")
    return reader.messages


class _Reader:
    def __init__(self, names: Names) -> None:
        self.messages: list[Message] = []
        self._names = names
        self._called: set[str] = set()
        self._blocks = 0

    def take(self, message: Any, where: str) -> None:
        if not isinstance(message, dict):
            raise refused(f"{where} must be an object")
        self._names.known(("role", "content"), {}, message, f"{where}.")
        role = message.get("role")
        if not isinstance(role, str) or role not in BY_ROLE:
            raise refused(f"{where}.role is {excerpt(role)}; it must be one of {', '.join(BY_ROLE)}")
        blocks = self.blocks(message.get("content"), role, f"{where}.content")
        if role == "assistant":
            self._assistants(blocks)
            return
        parts: list[dict[str, Any]] = []
        for place, block in blocks:
            if block["type"] == "text":
                parts.append({"type": "text", "text": block["text"]})
            elif block["type"] == "image":
                parts.append(self._image(block.get("source"), f"{place}.source"))
            else:
                self._say(role, parts)
                self._result(block, place)
        self._say(role, parts)

    def blocks(self, content: Any, role: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The blocks of a content, each with where it is. Raises InvalidRequest."""
        if isinstance(content, str):
            yield where, {"type": "text", "text": content}
            return
        if not isinstance(content, list):
            raise refused(f"{where} must be a string or a list of blocks", where)
        self._blocks += len(content)
        if self._blocks > MOST_PARTS:
            raise refused(f"at most {MOST_PARTS} blocks are allowed in one request; join some")
        for index, block in enumerate(content):
            place = f"{where}[{index}]"
            kind = block.get("type") if isinstance(block, dict) else None
            if not isinstance(kind, str) or kind not in BY_ROLE[role]:
                raise Unsupported(
                    f"{place}.type is {excerpt(kind)}; here this server accepts only {', '.join(BY_ROLE[role])}",
                    param=place,
                )
            self._names.known(BLOCK_FIELDS[kind], BLOCK, block, f"{place}.")
            field = {"thinking": "thinking", "text": "text"}.get(kind)
            if field is not None and not isinstance(block.get(field), str):
                raise refused(f"{place}.{field} must be a string", place)
            yield place, block

    def _say(self, role: str, parts: list[dict[str, Any]]) -> None:
        if all(part["type"] == "text" for part in parts):
            content: Any = "\n".join(part["text"] for part in parts)
        else:
            content = parts.copy()
        if parts:
            self.messages.append({"role": role, "content": content})
            parts.clear()

    def _image(self, source: Any, where: str) -> dict[str, Any]:
        """An image as a part of a chat's message. What else is wrong with it is found there."""
        kind = source.get("type") if isinstance(source, dict) else None
        if kind not in ("base64", "url"):
            raise Unsupported(f"{where}.type is {excerpt(kind)}; only 'base64' is supported", param=where)
        self._names.known(SOURCE_FIELDS, {}, source, f"{where}.")
        address = source.get("url")
        if kind == "base64":
            media, data = source.get("media_type"), source.get("data")
            if not isinstance(media, str) or not isinstance(data, str):
                raise refused(f"{where} must have media_type and data", where)
            address = f"data:{media};base64,{data}"
        return {"type": "image_url", "image_url": {"url": address}}

    def _result(self, block: dict[str, Any], where: str) -> None:
        call_id, content = block.get("tool_use_id"), block.get("content")
        if not isinstance(call_id, str) or call_id not in self._called:
            raise refused(f"{where}.tool_use_id is {excerpt(call_id)}, not the id of an earlier tool_use", where)
        inner = self.blocks("" if content is None else content, "system", f"{where}.content")
        text = "\n".join(block["text"] for _, block in inner)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _assistants(self, blocks: Iterator[tuple[str, dict[str, Any]]]) -> None:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for where, block in blocks:
            match block["type"]:
                case "text":
                    texts.append(block["text"])
                case "thinking":
                    thoughts.append(block["thinking"])
                case "tool_use":
                    calls.append(self._call(block, where))
        message: Message = {"role": "assistant", "content": "\n".join(texts)}
        if thoughts:
            message["reasoning_content"] = "\n".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        self.messages.append(message)

    def _call(self, block: dict[str, Any], where: str) -> dict[str, Any]:
        call_id, name, given = block.get("id"), block.get("name"), block.get("input")
        if not isinstance(call_id, str) or not isinstance(name, str) or not isinstance(given, dict):
            raise refused(f"{where} must have an id, a name, and input, an object", where)
        check_json(given, "messages", most_bytes=MOST_INPUT_BYTES)
        self._called.add(call_id)
        arguments = json.dumps(given, ensure_ascii=False)
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def refused(reason: str, param: str = "messages") -> InvalidRequest:
    """The error for wrong messages."""
    return InvalidRequest(f"messages: {reason}" if param == "messages" else reason, param=param)
