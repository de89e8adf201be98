"""Objects of schemas get only the properties that they name, and nothing that matched before is asked for twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from tenantd.text.closed_objects import closed
from tenantd.text.compiler import Source, compile_grammar

NAME: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def allows(schema: dict[str, Any], value: Any) -> bool:
    compiled = compile_grammar(Source("json_schema", json.dumps(schema)))
    assert not compiled.error, compiled.error
    tokens = list(json.dumps(value).encode())
    matcher = LLMatcher(LLTokenizer("byte"), compiled.grammar)
    return matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (NAME, {"name": "a"}),
        ({"type": "array", "items": NAME}, [{"name": "a"}]),
        ({"anyOf": [NAME, {"type": "null"}]}, {"name": "a"}),
        ({"$defs": {"N": NAME}, "type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}, {"n": {"name": "a"}}),
    ],
)
def test_what_is_not_named_is_not_generated(schema: dict[str, Any], value: Any) -> None:
    assert allows(schema, value)
    assert not allows(schema, json.loads(json.dumps(value).replace('"a"', '"a", "more": 1')))


@pytest.mark.parametrize(
    "schema",
    [
        {**NAME, "additionalProperties": {"type": "integer"}},
        {**NAME, "additionalProperties": True},
        {"allOf": [NAME, {"type": "object", "properties": {"more": {"type": "integer"}}}]},
        {"type": "object"},
        {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name", "more"]},
        {"anyOf": [NAME, {"type": "object", "required": ["more"]}], "properties": {"more": {"type": "integer"}}},
    ],
)
def test_a_schema_that_says_otherwise_or_combines_others_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema
    assert allows(schema, {"name": "a", "more": 1})


def test_values_that_look_like_schemas_are_values() -> None:
    schema = {"type": "object", "properties": {"properties": {"const": {"properties": {}}}}}
    assert closed(schema) == {**schema, "additionalProperties": False}
    assert allows(schema, {"properties": {"properties": {}}})
