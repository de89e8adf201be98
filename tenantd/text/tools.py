"""The tools that a request offers the model: what they may be, and whether the model must call one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from tenantd.errors import InvalidRequest
from tenantd.text.excerpt import excerpt, is_unicode

MOST_TOOLS: Final = 128  # as at OpenAI
MOST_DESCRIPTION_CHARACTERS: Final = 16_384
MOST_BYTES: Final = 256 * 1024
"""Maximum size of all tools together."""
MOST_VALUES: Final = 20_000
MOST_DEPTH: Final = 64
NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}

Choice = Literal["auto", "none", "required"]


class Tool(NamedTuple):
    """A function of the client. `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class Tools(NamedTuple):
    """The tools of a request. With the choice `required` the answer is a call; `named` is then the only tool for it."""

    tools: tuple[Tool, ...]
    choice: Choice = "auto"
    named: str = ""
    parallel: bool = True

    @property
    def forced(self) -> tuple[Tool, ...]:
        """Those of which the answer must call one; empty if it need not."""
        if self.choice != "required":
            return ()
        return tuple(tool for tool in self.tools if self.named in ("", tool.name))


def read_tools(tools: Sequence[Any] | None, choice: Any, *, parallel: bool | None) -> Tools | None:
    """Check tools as OpenAI's clients send them; None if the model may call none.

    Raises InvalidRequest (`tools`, `tool_choice`).
    """
    if len(tools or ()) > MOST_TOOLS:
        raise _refused(f"at most {MOST_TOOLS} are allowed in one request (got {len(tools or ())})")
    check_json(tools, "tools", most_bytes=MOST_BYTES)
    found = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools or ()))
    names = [tool.name for tool in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise _refused(f"tools[{index}].function.name is {name!r} again; give each tool its own name")
    mode, named = _choice(choice, names)
    return None if mode == "none" or not found else Tools(found, mode, named, parallel is not False)


def _tool(tool: Any, where: str) -> Tool:
    if not isinstance(tool, dict):
        raise _refused(f"{where} must be an object")
    if tool.get("type") != "function":
        raise _refused(f"{where}.type is {excerpt(tool.get('type'))}; only 'function' is supported")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise _refused(f"{where}.function must be an object")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise _refused(
            f"{where}.function.name is {excerpt(name)}; it must have 1 to 64 characters of a-z, A-Z, 0-9, _ and -"
        )
    if description is not None and not isinstance(description, str):
        raise _refused(f"{where}.function.description must be a string")
    if len(description or "") > MOST_DESCRIPTION_CHARACTERS:
        raise _refused(f"{where}.function.description may have at most {MOST_DESCRIPTION_CHARACTERS} characters")
    if not isinstance(function.get("strict"), bool | None):
        raise _refused(f"{where}.function.strict must be true or false")
    return Tool(name, description or "", _parameters(function.get("parameters"), f"{where}.function.parameters"))


def _parameters(schema: Any, where: str) -> Mapping[str, Any]:
    if schema is None:
        return NO_PARAMETERS
    if not isinstance(schema, dict):
        raise _refused(f"{where} must be a JSON schema (an object)")
    if schema.get("type", "object") != "object":
        raise _refused(f"{where}.type is {excerpt(schema['type'])}; arguments are always an 'object'")
    return {"type": "object", **schema}


def _choice(choice: Any, names: Sequence[str]) -> tuple[Choice, str]:
    if choice is None:
        return "auto", ""
    if isinstance(choice, str) and choice in ("auto", "none", "required"):
        if choice == "required" and not names:
            raise _bad_choice("'required' needs tools")
        return choice, ""  # type: ignore[return-value]
    if not isinstance(choice, dict) or choice.get("type") != "function":
        kind = choice.get("type") if isinstance(choice, dict) else choice
        raise _bad_choice(
            f"{excerpt(kind)} is not supported; use 'auto', 'none', 'required', or an object with the type 'function'"
        )
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in names:
        raise _bad_choice(f"function.name is {excerpt(name)}, which is not the name of one of the tools")
    return "required", name


def parse_object(text: str) -> dict[str, Any] | None:
    """A JSON object from a client's text; None if it is something else."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_json(value: Any, param: str, *, most_bytes: int) -> None:
    """Check depth, number and length of all values, without visiting more than allowed. Raises InvalidRequest."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    values = size_bytes = 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        size_bytes += 4 + (len(value) if isinstance(value, str) else 0)
        if depth > MOST_DEPTH:
            raise InvalidRequest(f"{param}: nested deeper than {MOST_DEPTH} levels", param=param)
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        if isinstance(value, (dict, list)):
            values += len(value)
            size_bytes += sum(map(len, texts))
            if values <= MOST_VALUES:
                waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
        if values > MOST_VALUES or size_bytes > most_bytes:
            raise InvalidRequest(
                f"{param}: too large; at most {MOST_VALUES} values and {most_bytes} bytes are allowed", param=param
            )
        if not all(map(is_unicode, texts)):
            raise InvalidRequest(f"{param}: not valid Unicode", param=param)


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"tools: {reason}", param="tools")


def _bad_choice(reason: str) -> InvalidRequest:
    return InvalidRequest(f"tool_choice: {reason}", param="tool_choice")
