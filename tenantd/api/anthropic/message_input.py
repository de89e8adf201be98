"""Reads a request of Anthropic's API: the chat that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tenantd.api.anthropic.blocks import messages_of
from tenantd.api.anthropic.types import MessagesRequest
from tenantd.api.body import validate
from tenantd.api.names import Foreign, Names, Refused, Taken
from tenantd.api.openai.types import ChatRequest
from tenantd.api.refusals import Unsupported
from tenantd.errors import InvalidRequest
from tenantd.text.chat import ChatFormatter
from tenantd.text.excerpt import excerpt

_TOOL_FIELDS: Final = ("type", "name", "description", "input_schema", "strict")
TOOL: Final[dict[str, Foreign]] = {
    "cache_control": Taken("affects speed only"),
    "eager_input_streaming": Taken("input is sent as soon as it is certain to be a call"),
    "input_examples": Refused("put them in the description", ([],)),
    "allowed_callers": Refused("only the model calls tools", (["direct"],)),
    "defer_loading": Refused("all tools are shown to the model", (False,)),
}
"""Fields of a tool."""
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_CHOICE_FIELDS: Final = ("type", "name", "disable_parallel_tool_use")
_SENT_AS: Final[Mapping[str, str]] = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
}
_SAME: Final = (
    *("model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "ignore_eos"),
    *("chat_template_kwargs", "stream", "timeout_s"),
)


def read_messages_request(request: MessagesRequest, names: Names, formatter: ChatFormatter) -> ChatRequest:
    """The chat for a request. Raises InvalidRequest."""
    messages = messages_of(request.messages, request.system, names)
    if not messages:
        raise InvalidRequest("messages: must have at least one block", param="messages")
    output = request.output_config
    last = messages[-1]
    chat: dict[str, Any] = {name: getattr(request, name) for name in _SAME}
    chat |= {
        "messages": messages,
        "stop": request.stop_sequences,
        "tools": _tools(request.tools, names),
        "tool_choice": _choice(request.tool_choice, names),
        "parallel_tool_calls": _is_parallel(request.tool_choice),
        "reasoning_effort": _effort(request, formatter),
        "service_tier": None if request.service_tier is None else "auto",
        "continue_final_message": True if last["role"] == "assistant" and not last.get("tool_calls") else None,
    }
    if output is not None and output.format is not None:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"schema": output.format.schema_}}
    names.sent_as |= _SENT_AS
    return validate(ChatRequest, chat)


def _tools(tools: list[Any] | None, names: Names) -> list[dict[str, Any]] | None:
    """Tools as chats have them; what else is wrong in them is found there."""
    if not tools:
        return None
    found: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise InvalidRequest(f"tools: tools[{index}] must be an object", param="tools")
        if (kind := tool.get("type")) not in (None, "custom"):
            raise Unsupported(
                f"tools: tools[{index}].type is {excerpt(kind)}; only 'custom' is supported", param="tools"
            )
        names.known(_TOOL_FIELDS, TOOL, tool, f"tools[{index}].")
        function = {field: tool[field] for field in ("name", "description", "strict") if field in tool}
        found.append({"type": "function", "function": {**function, "parameters": tool.get("input_schema")}})
    return found


def _choice(choice: Any, names: Names) -> Any:
    if choice is None:
        return None
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and kind == "tool":
        names.known(_CHOICE_FIELDS, {}, choice, "tool_choice.")
        return {"type": "function", "function": {"name": choice.get("name")}}
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise InvalidRequest(f"tool_choice: {_wrong_choice(choice)}", param="tool_choice")
    names.known(_CHOICE_FIELDS, {}, choice, "tool_choice.")
    return _CHOICES[kind]


def _wrong_choice(choice: Any) -> str:
    kinds = "'auto', 'any', 'tool' or 'none'"
    if not isinstance(choice, dict):
        return f'must be an object such as {{"type": "auto"}}, with a type of {kinds} (got {excerpt(choice)})'
    if "type" not in choice:
        return f"needs a type: {kinds}"
    return f"the type is {excerpt(choice['type'])}; it must be {kinds}"


def _is_parallel(choice: Any) -> bool | None:
    is_single = choice.get("disable_parallel_tool_use") if isinstance(choice, dict) else None
    if not isinstance(is_single, bool | None):
        raise InvalidRequest("tool_choice: disable_parallel_tool_use must be true or false", param="tool_choice")
    return False if is_single else None


def _effort(request: MessagesRequest, formatter: ChatFormatter) -> str | None:
    """How much to reason. What the template has no setting for is refused, unless the model does it anyway."""
    effort = request.output_config.effort if request.output_config else None
    if request.thinking is None:
        return effort
    if request.thinking.type == "disabled":
        if formatter.has_effort:
            return "none"
        if formatter.reasons:
            raise InvalidRequest("thinking: the model's chat template cannot turn it off", param="thinking")
        return effort
    if not formatter.has_effort and not formatter.reasons:
        raise InvalidRequest("thinking: the model's chat template does not support it", param="thinking")
    return effort or ("medium" if formatter.has_effort else None)
