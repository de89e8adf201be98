"""The items of a response's input as messages of a chat.

A message of the assistant, what it thought before and the calls after it are several items, and one message of a chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tenantd.api.names import Foreign, Names, Refused, Taken
from tenantd.api.refusals import Unsupported
from tenantd.errors import InvalidRequest
from tenantd.text.chat_messages import MOST_MESSAGES, MOST_PARTS
from tenantd.text.excerpt import excerpt

ITEM_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "message": ("type", "role", "content"),
    "function_call": ("type", "call_id", "name", "arguments"),
    "function_call_output": ("type", "call_id", "output"),
    "reasoning": ("type", "content", "summary"),
}
"""Kinds of items, and their fields that have an effect."""
ITEM: Final[dict[str, Foreign]] = {
    "id": Taken("the id of an earlier item"),
    "status": Taken("the status of an earlier item"),
    "phase": Taken("the phase of an earlier message"),
    "encrypted_content": Taken("reasoning is in `content`"),
    "namespace": Refused("tools have no namespaces"),
}
PART: Final[dict[str, Foreign]] = {
    "annotations": Taken("only the text is used"),
    "logprobs": Taken("logprobs of an earlier answer"),
    "prompt_cache_breakpoint": Taken("affects speed only"),
    "file_id": Refused("this server keeps no files; send the image in `image_url`"),
}
PARTS: Final[Mapping[str, str]] = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "reasoning_text": "text",
    "summary_text": "text",
    "refusal": "refusal",
}
"""Kinds of content, and the field that has its text."""
IMAGE: Final = "input_image"
"""A kind of content that only a user's messages have."""
IMAGE_FIELDS: Final = ("type", "image_url", "detail")
ROLES: Final = ("user", "assistant", "system", "developer")

Message = dict[str, Any]


def items_of(value: Any) -> list[dict[str, Any]]:
    """The `input` as a list of items. Raises InvalidRequest."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if not isinstance(value, list):
        raise refused("must be a string or a list of items")
    if len(value) > MOST_MESSAGES:
        raise refused(f"at most {MOST_MESSAGES} items are allowed in one request (got {len(value)})")
    return [_kind(item, f"input[{index}]") for index, item in enumerate(value)]


def _kind(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise refused(f"{where} must be an object")
    kind = item.get("type") or "message"
    if not isinstance(kind, str) or kind not in ITEM_FIELDS:
        raise Unsupported(
            f"input: {where}.type is {excerpt(kind)}; this server accepts only {', '.join(ITEM_FIELDS)}", param="input"
        )
    return {**item, "type": kind}


def messages_of(items: list[dict[str, Any]], names: Names, before: list[Message]) -> list[Message]:
    """The messages of a chat for items that follow the messages `before`. Raises InvalidRequest."""
    reader = _Reader(names, before)
    for index, item in enumerate(items):
        reader.take(item, f"input[{index}]")
    return reader.finish()


class _Reader:
    def __init__(self, names: Names, before: list[Message]) -> None:
        self._names = names
        self._messages: list[Message] = []
        self._thought = ""  # before the assistant's next message
        self._called = {call["id"] for message in before for call in message.get("tool_calls") or ()}
        self._parts = 0

    def take(self, item: dict[str, Any], where: str) -> None:
        kind = item["type"]
        self._names.known(ITEM_FIELDS[kind], ITEM, item, f"{where}.")
        match kind:
            case "message":
                self._said(item, where)
            case "function_call":
                self._call(item, where)
            case "function_call_output":
                self._result(item, where)
            case _:
                self._think(item, where)

    def finish(self) -> list[Message]:
        if self._thought:
            self._assistants({"content": ""})
        return self._messages

    def _said(self, item: dict[str, Any], where: str) -> None:
        role = item.get("role")
        if role not in ROLES:
            raise refused(f"{where}.role is {excerpt(role)}; it must be one of {', '.join(ROLES)}")
        content = item.get("content")
        if role == "user" and isinstance(content, list) and any(map(_is_image, content)):
            self._messages.append({"role": role, "content": self._with_images(content, f"{where}.content")})
            return
        text = self._text(content, f"{where}.content")
        if role == "assistant":
            self._assistants({"content": text})
        else:
            self._messages.append({"role": role, "content": text})

    def _call(self, item: dict[str, Any], where: str) -> None:
        call_id, name, arguments = (item.get(field) for field in ("call_id", "name", "arguments"))
        for field, value in (("call_id", call_id), ("name", name), ("arguments", arguments)):
            if not isinstance(value, str):
                raise refused(f"{where}.{field} must be a string")
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._called.add(call_id)
        last = self._messages[-1] if self._messages and not self._thought else None
        if last is not None and last["role"] == "assistant":
            last.setdefault("tool_calls", []).append(call)
        else:
            self._assistants({"content": "", "tool_calls": [call]})

    def _result(self, item: dict[str, Any], where: str) -> None:
        call_id = item.get("call_id")
        if not isinstance(call_id, str) or call_id not in self._called:
            raise refused(
                f"{where}.call_id is {excerpt(call_id)}, not the id of an earlier call; "
                "send the function_call, too, or previous_response_id"
            )
        text = self._text(item.get("output"), f"{where}.output")
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _think(self, item: dict[str, Any], where: str) -> None:
        parts = item.get("content") or item.get("summary") or []
        text = self._text(parts, f"{where}.content")
        self._thought = f"{self._thought}\n{text}" if self._thought and text else self._thought or text

    def _assistants(self, message: Message) -> None:
        thought = {"reasoning_content": self._thought} if self._thought else {}
        self._messages.append({"role": "assistant", **message, **thought})
        self._thought = ""

    def _with_images(self, content: list[Any], where: str) -> list[dict[str, Any]]:
        """The parts of a chat's message. What is wrong with an image is found there."""
        parts: list[dict[str, Any]] = []
        for index, part in enumerate(content):
            if not _is_image(part):
                parts.append({"type": "text", "text": self._text([part], where)})
                continue
            self._names.known(IMAGE_FIELDS, PART, part, f"{where}[{index}].")
            image = {"url": part.get("image_url"), "detail": part.get("detail")}
            parts.append({"type": "image_url", "image_url": image})
        return parts

    def _text(self, content: Any, where: str) -> str:
        """The text of a string, or of parts, which become lines."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise refused(f"{where} must be a string or a list of parts with text")
        self._parts += len(content)
        if self._parts > MOST_PARTS:
            raise refused(f"at most {MOST_PARTS} parts are allowed in one request; join some")
        texts: list[str] = []
        for index, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            field = PARTS.get(kind) if isinstance(kind, str) else None
            if field is None:
                raise Unsupported(
                    f"input: {where}[{index}].type is {excerpt(kind)}; this is not a text part", param="input"
                )
            if not isinstance(part.get(field), str):
                raise refused(f"{where}[{index}].{field} must be a string")
            self._names.known(("type", field), PART, part, f"{where}[{index}].")
            texts.append(part[field])
        return "\n".join(texts)


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == IMAGE


def refused(reason: str) -> InvalidRequest:
    """The error for a wrong `input`."""
    return InvalidRequest(f"input: {reason}", param="input")
