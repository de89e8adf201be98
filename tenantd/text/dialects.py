"""How families of models write calls of tools, recognised by their chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from tenantd.errors import InvalidRequest
from tenantd.text import harmony
from tenantd.text.calls import CallForm
from tenantd.text.grammar import GrammarSource, calls_source, format_or_calls_source
from tenantd.text.tools import Tool


class Dialect(NamedTuple):
    """A family. `form` is how its answers are read; None for harmony, which has its own reader. `key` is what it calls
    a call's arguments. `marks` are the control tokens of its calls, which the reader must see."""

    name: str
    form: CallForm | None
    key: str = "arguments"
    marks: tuple[str, ...] = ()


class Opening(NamedTuple):
    """How an answer begins that must be a call: `text` ends the prompt, and `grammar` matches the rest."""

    text: str
    grammar: GrammarSource


HERMES: Final = Dialect("hermes", CallForm("<tool_call>", "</tool_call>"))
"""Hermes, Qwen 2.5 and 3, and other models that use ChatML."""
LLAMA: Final = Dialect("llama", CallForm(), key="parameters")
"""Llama 3.1 and later."""
MISTRAL: Final = Dialect("mistral", CallForm("[TOOL_CALLS]", has_lists=True, is_hidden=True), marks=("[TOOL_CALLS]",))
"""Mistral's models until 2024: a list of calls."""
MISTRAL_NAMED: Final = Dialect(
    "mistral named",
    CallForm("[TOOL_CALLS]", named=True, infixes=("[CALL_ID]", "[ARGS]"), is_hidden=True),
    marks=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
)
"""Mistral's models since 2025: a name and its arguments."""
HARMONY: Final = Dialect("harmony", None, marks=harmony.MARKS)
"""gpt-oss."""
GENERIC: Final = Dialect("generic", CallForm(has_lists=True, fences=True))
"""What models are asked for whose templates know of no tools."""


def dialect_of(template: str) -> Dialect | None:
    """The family of a chat template; None if it is unknown how that would write calls."""
    if harmony.CHANNEL in template:
        return HARMONY
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    if "<tool_call>" in template and "<function=" not in template and ('"name' in template or '\\"name' in template):
        return HERMES
    if "<|start_header_id|>ipython" in template:
        return LLAMA
    return None


def opening_of(dialect: Dialect, tools: Sequence[Tool]) -> Opening:
    """How an answer begins that calls one of `tools`."""
    if dialect is HARMONY:
        if len(tools) == 1:
            head = (
                f" to={harmony.FUNCTIONS}{tools[0].name}{harmony.CHANNEL}commentary <|constrain|>json{harmony.MESSAGE}"
            )
            return Opening(head, _grammar([("", tools[0], "")]))
        return Opening(f" to={harmony.FUNCTIONS}", _grammar([(tool.name, tool, "") for tool in tools]))
    assert dialect.form is not None
    if dialect.form.named:
        if len(tools) == 1:
            return Opening(f"{dialect.form.opening}{tools[0].name}[ARGS]", _grammar([("", tools[0], "")]))
        return Opening(dialect.form.opening, _grammar([(tool.name, tool, "") for tool in tools]))
    text = dialect.form.opening + ("\n" if dialect is HERMES else "[" if dialect is MISTRAL else "")
    return Opening(text, _grammar(_objects(dialect, tools)))


def format_or_call(dialect: Dialect, tools: Sequence[Tool], schema: Mapping[str, Any] | None) -> GrammarSource:
    """What an answer matches that calls one of `tools` or has the format of `schema`; None is any JSON object.

    Raises InvalidRequest (`response_format`) if calls begin with control tokens, which no grammar can name.
    """
    form = dialect.form
    if form is None or form.is_hidden:
        raise InvalidRequest(
            "response_format: with this model it cannot be combined with tools that the model may choose to call; set "
            "tool_choice to 'required' for a call, or to 'none' for an answer in this format",
            param="response_format",
        )
    opening, closing = (f"{form.opening}\n", f"\n{form.closing}") if dialect is HERMES else ("", "")
    calls = _texts(_objects(dialect, tools))
    return format_or_calls_source(schema, [(opening + before, each, after + closing) for before, each, after in calls])


def _objects(dialect: Dialect, tools: Sequence[Tool]) -> list[tuple[str, Tool, str]]:
    """Calls that are objects: what stands before and after the arguments."""
    return [(f'{{"name": {json.dumps(tool.name)}, "{dialect.key}": ', tool, "}") for tool in tools]


def _grammar(calls: Sequence[tuple[str, Tool, str]]) -> GrammarSource:
    return calls_source(_texts(calls))


def _texts(calls: Sequence[tuple[str, Tool, str]]) -> list[tuple[str, dict[str, Any], str]]:
    return [(before, dict(tool.parameters), after) for before, tool, after in calls]


def instructions(tools: Sequence[Tool]) -> str:
    """What a model is told whose template knows of no tools."""
    shown: list[dict[str, Any]] = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools
    ]
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in shown)
    return (
        "You can call these functions. Each line describes one, with a JSON schema of its parameters:\n"
        f"{lines}\n"
        'To call a function, answer with nothing but a JSON object: {"name": "NAME", "arguments": {...}}. '
        "To call several at once, answer with a JSON list of such objects. Then you are given the results. "
        "If no function helps, answer as usual."
    )
