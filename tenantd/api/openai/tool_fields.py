"""How tools and their calls look in requests: the names of their fields, and their description in OpenAPI."""

from __future__ import annotations

from typing import Any, Final

from tenantd.api.names import Names
from tenantd.api.openai import known_names
from tenantd.text.chat_messages import MOST_ID_CHARACTERS
from tenantd.text.tools import MOST_DESCRIPTION_CHARACTERS, MOST_TOOLS, NAME

_TOOL_FIELDS: Final = ("type", "function")
_FUNCTION_FIELDS: Final = ("name", "description", "parameters", "strict")
_CALL_FIELDS: Final = ("id", "type", "function")
_CALLED_FIELDS: Final = ("name", "arguments")

_NAME: Final = {"type": "string", "pattern": f"^{NAME.pattern}$"}
CALL: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "function"],
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": MOST_ID_CHARACTERS},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": _NAME, "arguments": {"type": "string", "description": "JSON"}},
        },
    },
}
TOOLS: Final[dict[str, Any]] = {
    "type": "array",
    "maxItems": MOST_TOOLS,
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": _NAME,
                    "description": {"type": ["string", "null"], "maxLength": MOST_DESCRIPTION_CHARACTERS},
                    "parameters": {"type": ["object", "null"], "description": "A JSON schema"},
                    "strict": {"type": ["boolean", "null"]},
                },
            },
        },
    },
}
TOOL_CHOICE: Final[dict[str, Any]] = {
    "anyOf": [
        {"enum": ["auto", "none", "required", None]},
        {
            "type": "object",
            "required": ["type", "function"],
            "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}},
                },
            },
        },
    ]
}


def check_tools(names: Names, tools: Any) -> None:
    """Check the names of the fields of tools. What is malformed in another way is refused when it is read."""
    _check(names, tools, _TOOL_FIELDS, _FUNCTION_FIELDS, "tools")


def check_choice(names: Names, choice: Any) -> None:
    """The same for `tool_choice`."""
    if isinstance(choice, dict):
        names.known(("type", "function"), {}, choice, "tool_choice.")
        if isinstance(function := choice.get("function"), dict):
            names.known(("name",), {}, function, "tool_choice.function.")


def check_calls(names: Names, calls: Any, where: str) -> None:
    """As `check_tools`, for the calls of an earlier answer."""
    _check(names, calls, _CALL_FIELDS, _CALLED_FIELDS, where)


def _check(names: Names, items: Any, own: tuple[str, ...], inner: tuple[str, ...], where: str) -> None:
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            names.known(own, known_names.TOOL, item, f"{where}[{index}].")
            if isinstance(function := item.get("function"), dict):
                names.known(inner, known_names.TOOL, function, f"{where}[{index}].function.")
