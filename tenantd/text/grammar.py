"""From JSON schemas to GBNF, llama.cpp's grammars, within bounds: schemas and grammars come from clients."""

from __future__ import annotations

import functools
import json
import re
from typing import Any, Final

from tenantd.errors import InvalidRequest

MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_SCHEMA_DEPTH: Final = 32
MAX_REPETITIONS: Final = 500
"""Of minItems, maxLength and the like: each becomes a rule of its own, and llama.cpp bounds their number."""
MAX_VISITS: Final = 10_000
"""Of parts of a schema, each as often as it is referred to."""
MAX_GRAMMAR_CHARACTERS: Final = 256 * 1024
MAX_GRAMMAR_DEPTH: Final = 1000
"""llama.cpp's parser recurses for each open parenthesis: at 100,000 it overflows the stack of the engine."""

_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength")
_PATTERN_COUNTS: Final = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}")
_PATTERN_UNIT: Final = re.compile(r"\\(?P<escaped>.)|(?P<plain>.)", re.DOTALL)
_PATTERN_CLASSES: Final = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
_NOT_SYNTAX: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL)


class _TooComplex(Exception):
    """The schema would become too many rules."""


def json_schema_grammar(schema: dict[str, Any] | None) -> str:
    """GBNF for JSON that fits the schema; None is any JSON object. Raises InvalidRequest (`response_format`)."""
    if schema is None:
        return _any_object()
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as e:
        raise _refused(f"is not JSON: {e}") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise _refused(f"has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are taken")
    _check_bounds(schema)
    try:
        return _convert(text)
    except (_TooComplex, RecursionError):
        raise _refused("is too complex") from None
    except Exception as e:  # the converter asserts, and indexes what it does not check: KeyError, AttributeError, ...
        raise _refused(f"cannot be used: {type(e).__name__}: {str(e)[:200]}") from None


def check_grammar(grammar: str) -> None:
    """Refuse a client's GBNF that could exhaust the engine's stack, or be cut short. Raises InvalidRequest (`grammar`).

    Whether it parses is llama.cpp's to say.
    """
    if len(grammar) > MAX_GRAMMAR_CHARACTERS:
        raise InvalidRequest(f"grammar: at most {MAX_GRAMMAR_CHARACTERS} characters are taken", param="grammar")
    if "\0" in grammar:
        raise InvalidRequest("grammar: must not hold NUL, where llama.cpp would take it to end", param="grammar")
    depth = 0
    for character in re.sub(r"[^()]", "", _NOT_SYNTAX.sub("", grammar)):
        depth += 1 if character == "(" else -1
        if depth > MAX_GRAMMAR_DEPTH:
            raise InvalidRequest(f"grammar: more than {MAX_GRAMMAR_DEPTH} nested parentheses", param="grammar")


@functools.cache
def _any_object() -> str:
    return _convert('{"type": "object"}')


def _convert(schema: str) -> str:
    """What llama_cpp's json_schema_to_gbnf does, with a bound on the work: references can double it each level."""
    from llama_cpp.llama_grammar import SchemaConverter  # not at the top: it loads llama.cpp

    converter = SchemaConverter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    _bound(converter)
    root = json.loads(schema, object_hook=_with_plain_pattern)
    if "$ref" in root:  # the converter finds no references beside one, and there are its definitions
        root["anyOf"] = [{"$ref": root.pop("$ref")}]
    converter.visit(converter.resolve_refs(root, "schema"), "")
    grammar: str = converter.format_grammar()
    return grammar


def _with_plain_pattern(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("pattern"), str):
        schema["pattern"] = _plain_pattern(schema["pattern"])
    return schema


def _plain_pattern(pattern: str) -> str:
    """A regular expression without the escapes that GBNF does not have. Raises ValueError for those it cannot say."""
    result: list[str] = []
    in_brackets = False
    for unit in _PATTERN_UNIT.finditer(pattern):
        escaped = unit["escaped"]
        if escaped is None:
            in_brackets = unit["plain"] == "[" or (in_brackets and unit["plain"] != "]")
            result.append(unit["plain"])
        elif escaped in _PATTERN_CLASSES:
            within = _PATTERN_CLASSES[escaped]
            result.append(within if in_brackets else f"[{within}]")
        elif escaped.isalnum() or escaped in '"\\' or not escaped.isascii():
            raise ValueError(f"\\{escaped} is not supported in a pattern")
        else:
            code = f"\\x{ord(escaped):02X}"
            result.append(code if in_brackets else f"[{code}]")
    return "".join(result)


def _bound(converter: Any) -> None:
    """Make the converter raise _TooComplex instead of working without end."""
    visit, add_rule = converter.visit, converter._add_rule
    visits_left, characters_left = MAX_VISITS, MAX_GRAMMAR_CHARACTERS

    def bounded_visit(schema: Any, name: str) -> Any:
        nonlocal visits_left
        visits_left -= 1
        if visits_left < 0:
            raise _TooComplex
        return visit(schema, name)

    def bounded_add_rule(name: str, rule: str) -> Any:
        nonlocal characters_left
        characters_left -= len(name) + len(rule)
        if characters_left < 0:
            raise _TooComplex
        return add_rule(name, rule)

    converter.visit, converter._add_rule = bounded_visit, bounded_add_rule


def _check_bounds(schema: Any) -> None:
    """Depth and repetition counts, before the converter multiplies by them. Raises InvalidRequest."""
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_SCHEMA_DEPTH:
            raise _refused(f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        if isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, dict):
            waiting += [(inner, depth + 1) for inner in value.values()]
            _check_counts(value)


def _check_counts(schema: dict[str, Any]) -> None:
    counts = [schema[key] for key in _COUNTS if isinstance(schema.get(key), int)]
    if isinstance(pattern := schema.get("pattern"), str):
        # the digits of a count are compared by their number first: int() of a very long one is slow
        found = [digits for match in _PATTERN_COUNTS.finditer(pattern) for digits in match.groups() if digits]
        counts += [int(digits) if len(digits) < 10 else MAX_REPETITIONS + 1 for digits in found]
    for count in counts:
        if not 0 <= count <= MAX_REPETITIONS:
            raise _refused(f"has a repetition count that is not 0 to {MAX_REPETITIONS}")


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"response_format: the JSON schema {reason}", param="response_format")
