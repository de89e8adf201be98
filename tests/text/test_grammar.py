from __future__ import annotations

import copy
import time
from typing import Any

import llama_cpp
import pytest

from tenantd.errors import InvalidRequest
from tenantd.text.grammar import check_grammar, json_schema_grammar
from tenantd.text.llama_log import only_errors
from tenantd.text.vocabulary import LlamaVocabulary

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 500},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
        "child": {"$ref": "#/$defs/child"},
        "code": {"type": "string", "pattern": "^[A-Z]{2,4}-\\d{3}$"},
    },
    "required": ["name"],
    "$defs": {"child": {"type": "object", "properties": {"age": {"type": "integer"}}}},
}


def does_parse(vocabulary: LlamaVocabulary, grammar: str) -> bool:
    with only_errors():
        sampler = llama_cpp.llama_sampler_init_grammar(vocabulary._vocab, grammar.encode(), b"root")
    if sampler:
        llama_cpp.llama_sampler_free(sampler)
    return bool(sampler)


@pytest.mark.parametrize("schema", [None, {}, {"type": "object"}, {"const": "é"}, {"type": ["string", "null"]}, PERSON])
def test_llama_cpp_takes_the_grammar_of_a_schema(schema: dict[str, Any] | None, tiny: LlamaVocabulary) -> None:
    assert does_parse(tiny, json_schema_grammar(schema))


@pytest.mark.parametrize(
    "pattern",
    [r"^\d{4}-\d\d-\d\d$", r"^[\w.\-]+@[\w\-]+\.com$", r"^(\+1)? ?\(555\)\/\s[^\]]*$", "^a|[bc]$", "^.{1,500}$"],
)
def test_llama_cpp_takes_the_grammar_of_a_pattern(pattern: str, tiny: LlamaVocabulary) -> None:
    assert does_parse(tiny, json_schema_grammar({"type": "string", "pattern": pattern}))


def test_a_recursive_schema_refers_to_itself(tiny: LlamaVocabulary) -> None:
    """As pydantic writes them: the root is a reference beside its definitions."""
    node = {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}}}
    assert does_parse(tiny, json_schema_grammar({"$ref": "#/$defs/Node", "$defs": {"Node": node}}))


def test_the_schema_of_the_caller_is_not_changed() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "pattern": r"^\d$"}}}
    before = copy.deepcopy(schema)
    json_schema_grammar(schema)
    assert schema == before


def test_llama_cpp_refuses_what_is_no_grammar(tiny: LlamaVocabulary) -> None:
    assert not does_parse(tiny, "root ::= (")


def a_level_deeper(schema: dict[str, Any], levels: int) -> dict[str, Any]:
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: dict[str, dict[str, Any]] = {
    "unknown type": {"type": "quaternion"},
    "a number as type": {"type": 5},
    "not a schema": {"properties": {"a": True}},
    "a reference to nothing": {"$ref": "#/$defs/nobody"},
    "a reference that is no text": {"$ref": 5},
    "a reference to the network": {"$ref": "https://example.com/schema.json"},
    "a reference to a file": {"$ref": "file:///etc/passwd"},
    "an open pattern": {"type": "string", "pattern": "a+"},
    "a pattern with word borders": {"type": "string", "pattern": "^\\bword\\b$"},
    "a huge array": {"type": "array", "items": {}, "minItems": 1_000_000_000},
    "a negative length": {"type": "string", "minLength": -1},
    "a huge pattern": {"type": "string", "pattern": "^a{1000000000}$"},
    "a longer number than int() likes": {"type": "string", "pattern": "^a{" + "9" * 10_000 + "}$"},
    "too deep": a_level_deeper({"type": "string"}, 40),
    "too large": {"enum": ["x" * 70_000]},
    "deep for Python": a_level_deeper({"type": "string"}, 100_000),
    "large numbers multiplied": {
        "properties": {"x" * 3000: {"type": "array", "items": {"const": 1}, "minItems": 500}},
    },
    "not JSON": {"const": {1, 2}},
}


@pytest.mark.parametrize("schema", REFUSED.values(), ids=REFUSED)
def test_a_schema_that_cannot_be_used_is_an_invalid_request(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="the JSON schema") as e:
        json_schema_grammar(schema)
    assert e.value.param == "response_format"
    assert len(e.value.message) < 400


def test_references_that_double_at_each_level_are_refused_in_time() -> None:
    """The converter does not remember names with an underscore, so these would be 2^30 visits."""
    levels = {
        f"level_{n}": {"properties": {side: {"$ref": f"#/$defs/level_{n + 1}"} for side in ("left", "right")}}
        for n in range(30)
    }
    start = time.monotonic()
    with pytest.raises(InvalidRequest, match="too complex"):
        json_schema_grammar({"$ref": "#/$defs/level_0", "$defs": {**levels, "level_30": {"type": "string"}}})
    assert time.monotonic() - start < 5


def test_a_grammar_may_nest_as_far_as_the_engine_can_parse(tiny: LlamaVocabulary) -> None:
    deepest = "root ::= " + "(" * 1000 + '"a"' + ")" * 1000
    check_grammar(deepest)
    assert does_parse(tiny, deepest)


@pytest.mark.parametrize("grammar", ["root ::= " + "(" * 1001, 'root ::= "' + "x" * 300_000 + '"'])
def test_a_grammar_that_could_crash_the_engine_is_an_invalid_request(grammar: str) -> None:
    with pytest.raises(InvalidRequest) as e:
        check_grammar(grammar)
    assert e.value.param == "grammar"


def test_parentheses_in_literals_and_comments_do_not_nest() -> None:
    check_grammar('root ::= "((\\"((" [(\\](] # ((\n' * 1000)
