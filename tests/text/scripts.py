"""What models of several families write when they call tools, and how that is to be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tenantd.text.calls import Part, Reader
from tenantd.text.dialects import GENERIC, HARMONY, HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, Dialect
from tenantd.text.reading import Reading
from tenantd.text.reasoning import Tags

THINK: Final = Tags("<think>", "</think>")
NAMES: Final = frozenset({"look", "get_weather"})
LOOK: Final = ("call", "look")
EMPTY: Final = ("arguments", "{}")


class Script(NamedTuple):
    """`parts` are neighbours of different kinds; arguments follow each call."""

    dialect: Dialect
    text: str
    parts: Sequence[tuple[str, str]]
    tags: Tags | None = None
    is_thinking: bool = False


def weather(city: str) -> list[tuple[str, str]]:
    return [("call", "get_weather"), ("arguments", f'{{"city": "{city}"}}')]


def _hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


PARIS: Final = '{"city": "Paris"}'
OSLO: Final = '{"city": "Oslo"}'
NESTED: Final = '{"city": "</tool_call><tool_call>{\\"name\\": \\"look\\", [TOOL_CALLS]"}'
SCRIPTS: Final = {
    "hermes": Script(HERMES, _hermes("get_weather", PARIS), weather("Paris")),
    "hermes, two": Script(
        HERMES,
        "Both.\n\n" + _hermes("get_weather", PARIS) + "\n" + _hermes("get_weather", OSLO) + "\n",
        [("content", "Both."), *weather("Paris"), *weather("Oslo")],
    ),
    "hermes, text after": Script(
        HERMES, _hermes("look", "{}") + "\nand that < is it ", [LOOK, EMPTY, ("content", "and that < is it ")]
    ),
    "hermes, no arguments": Script(HERMES, '<tool_call>{"name":"look"}</tool_call>', [LOOK, EMPTY]),
    "hermes, not closed": Script(HERMES, '<tool_call>{"arguments": {}, "name": "look"}', [LOOK, EMPTY]),
    "hermes, marks in arguments": Script(
        HERMES, _hermes("get_weather", NESTED), [("call", "get_weather"), ("arguments", NESTED)]
    ),
    "hermes, arguments as text": Script(
        HERMES, _hermes("get_weather", '"{\\"city\\": \\"Paris\\"}"'), weather("Paris")
    ),
    "hermes, unknown tool": Script(HERMES, _hermes("rm", "{}"), [("content", _hermes("rm", "{}"))]),
    "hermes, not JSON": Script(HERMES, _hermes("look", "{x}"), [("content", _hermes("look", "{x}"))]),
    "hermes, arguments no object": Script(HERMES, _hermes("look", "[]"), [("content", _hermes("look", "[]"))]),
    "hermes, cut off": Script(HERMES, '<tool_call>\n{"name": "lo', [("content", '<tool_call>\n{"name": "lo')]),
    "hermes, a word about calls": Script(HERMES, "Use <tool_call> ok", [("content", "Use <tool_call> ok")]),
    "hermes, only text": Script(HERMES, " 1 < 2\n ", [("content", " 1 < 2\n ")]),
    "qwen, thinking": Script(
        HERMES,
        f"<think>\nHm, <tool_call>?\n</think>\n\nI look.\n{_hermes('look', '{}')}",
        [("reasoning", "Hm, <tool_call>?"), ("content", "I look."), LOOK, EMPTY],
        THINK,
    ),
    "qwen, thinking was opened": Script(
        HERMES, "Hm.\n</think>\n\nYes.", [("reasoning", "Hm."), ("content", "Yes.")], THINK, True
    ),
    "qwen, thought nothing": Script(HERMES, "<think>\n\n</think>\n\nYes.", [("content", "Yes.")], THINK),
    "qwen, still thinking": Script(HERMES, "<think>Hm, so </th", [("reasoning", "Hm, so </th")], THINK),
    "qwen, about thinking": Script(HERMES, "A <think> b</think>", [("content", "A <think> b</think>")], THINK),
    "llama": Script(LLAMA, '{"name": "get_weather", "parameters": {"city": "Paris"}}', weather("Paris")),
    "llama, two": Script(
        LLAMA,
        '{"name": "look", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Oslo"}}',
        [LOOK, EMPTY, *weather("Oslo")],
    ),
    "llama, JSON that is no call": Script(LLAMA, ' {"a": 1} ', [("content", ' {"a": 1} ')]),
    "llama, text": Script(LLAMA, 'Use {"name": "look"}', [("content", 'Use {"name": "look"}')]),
    "mistral": Script(
        MISTRAL,
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "123456789"}, '
        '{"name": "look", "arguments": {}}]',
        [*weather("Paris"), LOOK, EMPTY],
    ),
    "mistral, a list that breaks": Script(
        MISTRAL,
        '[TOOL_CALLS] [{"name": "look", "arguments": {}}, {"name": "rm"}]',
        [LOOK, EMPTY, ("content", '{"name": "rm"}]')],
    ),
    "mistral, text before": Script(
        MISTRAL, 'Well. [TOOL_CALLS][{"name": "look"}]', [("content", "Well."), LOOK, EMPTY]
    ),
    "mistral, no call": Script(MISTRAL, "A [TOOL_CALLS] b", [("content", "A  b")]),
    "mistral named": Script(
        MISTRAL_NAMED,
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]look[CALL_ID]000000001[ARGS]{}',
        [*weather("Paris"), LOOK, EMPTY],
    ),
    "mistral named, without marks": Script(MISTRAL_NAMED, "[TOOL_CALLS]look{}", [LOOK, EMPTY]),
    "mistral named, unknown": Script(MISTRAL_NAMED, "[TOOL_CALLS]rm[ARGS]{}", [("content", "rm{}")]),
    "generic": Script(GENERIC, '{"name": "get_weather", "arguments": {"city": "Paris"}}', weather("Paris")),
    "generic, list in a fence": Script(
        GENERIC,
        '```json\n[{"name": "look", "arguments": {}}, {"name": "get_weather", "arguments": {"city": "Oslo"}}]\n```\n',
        [LOOK, EMPTY, *weather("Oslo")],
    ),
    "generic, code": Script(GENERIC, "```js\n{}\n```", [("content", "```js\n{}\n```")]),
    "generic, a JSON answer": Script(GENERIC, '```json\n{"a": 1}\n```', [("content", '```json\n{"a": 1}\n```')]),
    "harmony": Script(
        HARMONY,
        "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Paris"}<|call|>',
        [("reasoning", "Need it."), *weather("Paris")],
    ),
    "harmony, recipient first": Script(
        HARMONY, " to=functions.look<|channel|>commentary json<|message|>{}", [LOOK, EMPTY]
    ),
    "harmony, an answer": Script(
        HARMONY,
        "<|channel|>analysis<|message|>Hm < x.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        [("reasoning", "Hm < x."), ("content", "Yes.")],
    ),
    "harmony, a preamble": Script(
        HARMONY,
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Done.",
        [("content", "I look.\n\nDone.")],
    ),
    "harmony, without an end": Script(
        HARMONY,
        "<|channel|>analysis<|message|>Hm<|channel|>final<|message|>Yes",
        [("reasoning", "Hm"), ("content", "Yes")],
    ),
    "harmony, unknown tool": Script(
        HARMONY, "<|channel|>commentary to=functions.rm<|message|>{}<|call|>", [("content", "{}")]
    ),
    "harmony, not JSON": Script(
        HARMONY, "<|channel|>commentary to=functions.look<|message|>{x}<|call|>", [("content", "{x}")]
    ),
    "harmony, text after": Script(
        HARMONY, "<|channel|>commentary to=functions.look<|message|>{} 1 < 2\n ", [("content", "{} 1 < 2\n ")]
    ),
    "harmony, plain text": Script(HARMONY, "Hello <|end|> you", [("content", "Hello \n\nyou")]),
    "harmony, cut off in a header": Script(HARMONY, "<|channel|>ana", []),
    "harmony, a word": Script(HARMONY, "to", [("content", "to")]),
}


def reading(script: Script, *, most_calls: int | None = None) -> Reading:
    return Reading(
        form=script.dialect.form,
        tags=script.tags,
        is_harmony=script.dialect is HARMONY,
        is_thinking=script.is_thinking,
        names=NAMES,
        most_calls=most_calls,
    )


def read(reader: Reader, pieces: Iterable[str]) -> list[tuple[str, str]]:
    """The parts of a text that arrives in pieces, with neighbours of one kind joined."""
    parts: list[Part] = []
    for piece in pieces:
        parts += reader.push(piece)
    found: list[tuple[str, str]] = []
    for kind, text in [*parts, *reader.finish()]:
        if found and found[-1][0] == kind != "call":
            found[-1] = (kind, found[-1][1] + text)
        else:
            found.append((kind, text))
    return found
