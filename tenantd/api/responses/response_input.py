"""Reads a request for a response: the chat that it becomes, and what its answer repeats of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tenantd.api.body import validate
from tenantd.api.names import Foreign, Names, Refused, Taken, read_request
from tenantd.api.openai.types import ChatRequest
from tenantd.api.refusals import Unsupported
from tenantd.api.responses.items import Message, items_of, messages_of, refused
from tenantd.api.responses.types import ResponseRequest
from tenantd.errors import InvalidRequest
from tenantd.text.excerpt import excerpt

_TOOL_FIELDS: Final = ("type", "name", "description", "parameters", "strict")
_CHOICE_FIELDS: Final = ("type", "name")
TOOL: Final[dict[str, Foreign]] = {
    "cache_control": Taken("affects speed only"),
    "allowed_callers": Refused("only the model calls tools", (["direct"],)),
    "defer_loading": Refused("all tools are shown to the model", (False,)),
    "output_schema": Taken("results are not checked"),
}
"""Fields of a tool."""
_SENT_AS: Final[Mapping[str, str]] = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_SAME: Final = (
    *("model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "ignore_eos", "parallel_tool_calls"),
    *("chat_template_kwargs", "stream", "timeout_s", "service_tier"),
)

encode = msgspec.json.Encoder().encode
decode_messages: Final = msgspec.json.Decoder(list[dict[str, Any]]).decode
"""The messages of a conversation that was kept."""


class Read(NamedTuple):
    """What a request's answer needs. `repeated` are its fields that are the request's. `input_items`, a list as it is
    shown, and `messages`, those of the input, are JSON, to be kept."""

    repeated: dict[str, Any]
    input_items: bytes
    messages: bytes
    wants_kept: bool
    is_background: bool


def read_response(request: ResponseRequest, names: Names, before: list[Message]) -> tuple[ChatRequest, Read]:
    """The chat for a request that continues the conversation `before`, and what is left of the request. Raises
    InvalidRequest."""
    if request.background and (request.store is False or request.stream):
        raise InvalidRequest(
            "background cannot be combined with stream, or with store false; ask for the response with GET",
            param="background",
        )
    items = items_of(request.input)
    own = messages_of(items, names, before)
    messages = [*before, *own]
    if not messages:
        raise refused("must not be empty")
    instructions = [{"role": "system", "content": request.instructions}] if request.instructions else []
    chat: dict[str, Any] = {name: getattr(request, name) for name in _SAME}
    chat |= {
        "messages": instructions + messages,
        "max_tokens": request.max_output_tokens,
        "tools": _tools(request.tools, names),
        "tool_choice": _choice(request.tool_choice, names),
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "response_format": _format(request),
    }
    names.sent_as |= _SENT_AS
    wants_kept = request.store is not False
    return validate(ChatRequest, chat), Read(
        _repeated(request),
        encode(_listed(with_ids(items))) if wants_kept else b"",
        encode(own) if wants_kept else b"",
        wants_kept,
        bool(request.background),
    )


def request_of(raw: bytes, names: Names) -> ResponseRequest:
    """The validated body. Raises InvalidRequest."""
    return read_request(ResponseRequest, raw, names)


def with_ids(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as they are shown later: each with an id, messages with their content as parts."""
    shown: list[dict[str, Any]] = []
    for item in items:
        prefix = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}.get(item["type"], "rs")
        more: dict[str, Any] = {"id": item.get("id") or new_item_id(prefix)}
        if item["type"] == "message" and isinstance(content := item.get("content"), str):
            kind = "output_text" if item.get("role") == "assistant" else "input_text"
            more["content"] = [{"type": kind, "text": content}]
        shown.append({"status": "completed", **item, **more})
    return shown


def _listed(items: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": False}


def new_item_id(prefix: str) -> str:
    """The id of an item; "msg" is the prefix of a message."""
    return f"{prefix}_{secrets.token_hex(16)}"


def _tools(tools: list[Any] | None, names: Names) -> list[dict[str, Any]] | None:
    """Tools as chats have them; what is wrong in them is found there."""
    if not tools:
        return None
    found: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise InvalidRequest(f"tools: tools[{index}] must be an object", param="tools")
        if (kind := tool.get("type")) != "function":
            raise Unsupported(
                f"tools: tools[{index}].type is {excerpt(kind)}; only 'function' is supported",
                param="tools",
            )
        names.known(_TOOL_FIELDS, TOOL, tool, f"tools[{index}].")
        function = {field: tool[field] for field in _TOOL_FIELDS[1:] if field in tool}
        found.append({"type": "function", "function": function})
    return found


def _choice(choice: Any, names: Names) -> Any:
    if isinstance(choice, dict):
        if (kind := choice.get("type")) != "function":
            raise Unsupported(
                f"tool_choice: the type {excerpt(kind)} is not supported; use 'auto', 'none', 'required', or an object "
                "with the type 'function'",
                param="tool_choice",
            )
        names.known(_CHOICE_FIELDS, {}, choice, "tool_choice.")
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _format(request: ResponseRequest) -> dict[str, Any] | None:
    wanted = request.text.format if request.text else None
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    if wanted.schema_ is None:
        raise InvalidRequest("text.format: the type json_schema needs a schema", param="text.format")
    return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema_}}


def _repeated(request: ResponseRequest) -> dict[str, Any]:
    wanted = request.text.format if request.text else None
    text = wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}
    return {
        "background": bool(request.background),
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
        "temperature": request.temperature,
        "text": {"format": text},
        "tool_choice": request.tool_choice or "auto",
        "tools": [{"description": None, "parameters": None, "strict": None, **tool} for tool in request.tools or ()],
        "top_p": request.top_p,
        "truncation": "disabled",
    }
