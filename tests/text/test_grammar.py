"""Clients' grammars and schemas: what is taken, what is refused and in which words, and who waits for whom."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from tenantd.errors import InvalidRequest, QueueFull, TenantdError
from tenantd.llamacpp.constraint import limits
from tenantd.text.compiler import Source, compile_grammar
from tenantd.text.gbnf import GbnfError, gbnf_to_lark
from tenantd.text.grammar import MAX_WAITING, GrammarCompiler, gbnf_source, schema_source
from tests.support.examples import examples
from tests.support.grammars import compiled, compiled_schema

BYTES = LLTokenizer("byte")


def accepts(grammar: str, text: str) -> bool:
    """The whole text, and the answer may end after it."""
    matcher = LLMatcher(BYTES, grammar, log_level=0, limits=limits())
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


# ---- GBNF --------------------------------------------------------------------------------------------------------

JSON = r"""
root   ::= object  # as llama.cpp's own example has it
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

ws ::= | " " | "\n" [ \t]{0,20}
"""

EXAMPLES: dict[str, tuple[str, list[str], list[str]]] = {
    "alternatives": ('root ::= "yes" | "no"', ["yes", "no"], ["maybe", "", "yesno"]),
    "an empty alternative": ('root ::= "x" | ', ["x", ""], ["xx"]),
    "repetitions": ('root ::= "a"? "b"* "c"+ "d"{2} "e"{1,} "f"{0,2} "g"{,1}', ["cdde", "abbccddeefg"], ["cdd", "cde"]),
    "a repetition of a repetition": ('root ::= ("a"{2}){2}', ["aaaa"], ["aa", "aaa"]),
    "escapes": (r'root ::= "\"\\\n\r\t\x41\u00e4\U0001F600"', ['"\\\n\r\tA\u00e4\U0001f600'], ["A"]),
    "classes": (r"root ::= [a-c\]^-] [^a-z\n] .", ["]A\n", "^1x", "-\u00e4\U0001f600"], ["aaa", "a\nx", "dAx"]),
    "a literal that a class before it could take": ('root ::= [a-z]+ "x"', ["abx", "xx"], ["ab", "x"]),
    "the same through rules": ('root ::= word "x"\nword ::= letter+\nletter ::= [a-z]', ["abx", "xx"], ["ab", "x"]),
    "rules over several lines": ('root ::= (\n  "a" # one\n  | "b"\n)\n# done\n', ["a", "b"], ["", "ab"]),
    "a rule that refers to itself": ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x", "()"]),
    "left recursion": ('root ::= root "a" | "a"', ["a", "aaa"], ["", "b"]),
    "names with dashes": ('root ::= my-rule Other_1\nmy-rule ::= "a"\nOther_1 ::= "b"', ["ab"], ["a"]),
    "deep parentheses": ("root ::= " + "(" * 100 + '"a"' + ")" * 100, ["a"], ["b"]),
    "JSON": (JSON, ['{"a": [1,-2.5e3,{"b":null}], "c\\u00e4\\n":"x"}', "{}"], ['{"a":}', "[]", '{"a":1,}']),
}


@pytest.mark.parametrize(("grammar", "matching", "others"), EXAMPLES.values(), ids=EXAMPLES)
def test_a_grammar_accepts_its_texts_and_no_others(grammar: str, matching: list[str], others: list[str]) -> None:
    ready = compiled(grammar)
    assert [text for text in matching if not accepts(ready, text)] == []
    assert [text for text in others if accepts(ready, text)] == []


LITERALS = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n'), min_size=1, max_size=5)


@examples(200)
@given(LITERALS, LITERALS)
def test_any_literal_is_itself(one: str, other: str) -> None:
    ready = compiled(f'root ::= "{one}"')
    assert accepts(ready, one)
    assert accepts(ready, other) == (one == other)


ATOMS = st.sampled_from(['"a"', '"ab"', "[a-c]", "[^b]", "."])


@st.composite
def _expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, str]:
    """The same language in GBNF and as a regular expression of Python's."""
    kind = draw(st.sampled_from(["atom", "sequence", "choice", "repeat"])) if depth else "atom"
    if kind == "atom":
        atom = draw(ATOMS)
        return atom, atom.strip('"') if atom.startswith('"') else atom
    if kind == "repeat":
        inner, regex = draw(_expressions(depth - 1))
        suffix = draw(st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,1}"]))
        return f"({inner}){suffix}", f"(?:{regex}){suffix}"
    parts = draw(st.lists(_expressions(depth - 1), min_size=2, max_size=3))
    between = " " if kind == "sequence" else " | "
    regex = ("" if kind == "sequence" else "|").join(f"(?:{regex})" for _, regex in parts)
    return "(" + between.join(gbnf for gbnf, _ in parts) + ")", f"(?:{regex})"


@examples(200)
@given(_expressions(), st.lists(st.text("abc", max_size=6), min_size=1, max_size=8))
def test_a_grammar_without_recursion_is_the_regular_expression_that_it_says(
    both: tuple[str, str], texts: list[str]
) -> None:
    gbnf, regex = both
    answer = compile_grammar(Source("gbnf", f"root ::= {gbnf}"))
    if not answer.error:  # some are too complex for the limits
        for text in texts:
            assert accepts(answer.grammar, text) == bool(re.fullmatch(regex, text, re.DOTALL)), text


WRONG = {
    "an open group": ('root ::= ("a"', "expected"),
    "an open literal": ('root ::= "abc', "not closed"),
    "an open class": ("root ::= [" + "a" * 1000, "not closed"),
    "forty-eight thousand brackets": ("root ::= " + "[" * 48_000, "not closed"),
    "ten thousand parentheses": ("root ::= " + "(" * 10_000, "nested deeper"),
    "ten thousand stars": ('root ::= "a"' + "*" * 10_000, "repetitions follow"),
    "a rule that is not there": ("root ::= nowhere", "not defined"),
    "no root": ('other ::= "a"', "root"),
    "two rules of one name": ('root ::= "a"\nroot ::= "b"', "twice"),
    "a count that ends before it begins": ('root ::= "a"{5,3}', "less than its minimum"),
    "a count of a billion": ('root ::= "a"{1000000000}', "2000|expected"),
    "an empty class": ("root ::= []", "empty"),
    "a range backwards": ("root ::= [z-a]", "before it begins"),
    "half a character": ('root ::= "\\ud83d"', "Unicode"),
    "an escape nobody knows": ('root ::= "\\q"', "escape"),
    "a token by its name": ("root ::= <|end|>", "tokens"),
    "text after a rule": ('root ::= "a" }', "expected"),
}


@pytest.mark.parametrize(("grammar", "reason"), WRONG.values(), ids=WRONG)
def test_what_is_no_grammar_is_refused_with_the_line_and_none_of_its_text(grammar: str, reason: str) -> None:
    with pytest.raises(GbnfError, match=reason) as refused:
        gbnf_to_lark(grammar)
    assert len(str(refused.value)) < 150
    assert str(refused.value).isprintable()


def test_long_grammars_take_time_in_proportion() -> None:
    for text in ("\n" * 64_000, "#\n" * 32_000, " " * 64_000, "a ::= b\n" * 1, '"' + "\\n" * 30_000 + '"'):
        started_s = time.thread_time()
        with pytest.raises(GbnfError):
            gbnf_to_lark(text + "root")
        assert time.thread_time() - started_s < 1


# ---- JSON schemas ------------------------------------------------------------------------------------------------

ENFORCED: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "bounds of integers": ({"type": "integer", "minimum": -3, "maximum": 12}, [-3, 0, 12], [-4, 13, 1.5, "1"]),
    "bounds of numbers": ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, [0.5, 1], [0, 1.5, -1]),
    "multiples": ({"type": "integer", "multipleOf": 7}, [0, 7, 21], [1, 8]),
    "a pattern": ({"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"}, ["AB-123"], ["AB-12", "ab-123", 1]),
    "a pattern that is open": ({"type": "string", "pattern": "b+"}, ["abc", "b"], ["ac"]),
    "lengths": ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd"]),
    "enum": ({"enum": ["red", 3, None]}, ["red", 3, None], ["blue", 4, False]),
    "const": ({"const": {"a": 1}}, [{"a": 1}], [{"a": 2}]),
    "types": ({"type": ["string", "null"]}, ["x", None], [1]),
    "anyOf": ({"anyOf": [{"type": "boolean"}, {"type": "integer", "maximum": 1}]}, [True, 1], [2, "x"]),
    "a reference": ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "null"}}}, [None], [0]),
    "a schema of itself": (
        {"$ref": "#/$defs/N", "$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}}},
        [{}, {"n": {"n": {}}}],
        [{"n": 1}, []],
    ),
    "required properties and no others": (
        {"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"], "additionalProperties": False},
        [{"a": 1}, {"a": 1, "b": []}],
        [{}, {"b": 1}, {"a": 1, "c": 1}],
    ),
    "items and how many": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        [[1], [1, 2]],
        [[], [1, 2, 3], ["1"]],
    ),
    "a date": ({"type": "string", "format": "date"}, ["2026-11-24"], ["2026-13-01", "today"]),
    "an address": ({"type": "string", "format": "ipv4"}, ["10.0.0.1"], ["10.0.0.256", "x"]),
    "titles and examples": (
        {"type": "null", "title": "t", "description": "d", "default": 1, "examples": [1]},
        [None],
        [1],
    ),
}


@pytest.mark.parametrize(("schema", "valid", "invalid"), ENFORCED.values(), ids=ENFORCED)
def test_a_schema_is_enforced(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    ready = compiled_schema(schema)
    assert [value for value in valid if not accepts(ready, json.dumps(value, ensure_ascii=False))] == []
    assert [value for value in invalid if accepts(ready, json.dumps(value, ensure_ascii=False))] == []


def test_texts_in_json_hold_no_raw_line_ends() -> None:
    ready = compiled_schema({"type": "string"})
    assert accepts(ready, '"a\\nb"')
    assert not accepts(ready, '"a\nb"') and not accepts(ready, '"a\tb"') and not accepts(ready, '"\x00"')


def test_space_between_the_parts_of_json_is_bounded() -> None:
    ready = compiled_schema({"type": "array", "items": {"type": "integer"}})
    assert accepts(ready, "[1, 2]") and accepts(ready, "[\n  1,\n  2\n]")
    assert not accepts(ready, "[1," + " " * 30 + "2]") and not accepts(ready, "[1,\n\n2]")


NOT_ENFORCED = {
    "not": {"not": {"type": "string"}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "if": {"if": {"type": "string"}, "then": {"minLength": 1}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "oneOf": {"oneOf": [{"type": "number"}, {"type": "integer"}]},
    "format": {"type": "string", "format": "regex"},
    "look-around": {"type": "string", "pattern": "(?=a)b"},
    r"\$ref": {"$ref": "https://example.com/schema.json"},
    "#/": {"$ref": "file:///etc/passwd"},
}


@pytest.mark.parametrize(("name", "schema"), NOT_ENFORCED.items(), ids=NOT_ENFORCED)
def test_what_cannot_be_enforced_is_refused_by_its_name(name: str, schema: Any) -> None:
    answer = compile_grammar(Source("json_schema", json.dumps(schema)))
    assert re.search(name, answer.error) and len(answer.error) < 250 and answer.error.isprintable()


def a_level_deeper(schema: dict[str, Any], levels: int) -> dict[str, Any]:
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


TOO_MUCH: dict[str, dict[str, Any]] = {
    "too deep": a_level_deeper({"type": "string"}, 70),
    "deep for Python": a_level_deeper({"type": "string"}, 100_000),
    "too large": {"enum": ["x" * 70_000]},
    "too many values": {"enum": list(range(30_000))},
    "half a character": {"const": "\ud83d"},
    "options of the compiler": {"type": "object", "x-guidance": {"lenient": True}},
    "the same further in": {"type": "array", "items": {"x-guidance": {}}},
}


@pytest.mark.parametrize("schema", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_schema_that_is_too_much_is_refused_before_it_is_compiled(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="the JSON schema") as refused:
        schema_source(schema)
    assert refused.value.param == "response_format"
    assert len(refused.value.message) < 250 and refused.value.message.isprintable()


def test_the_schema_of_the_caller_is_not_changed() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "pattern": r"^\d$"}}}
    before = copy.deepcopy(schema)
    schema_source(schema)
    assert schema == before


@pytest.mark.parametrize("grammar", ["root ::= " + "x" * 70_000, 'root ::= "\ud83d"'])
def test_a_grammar_that_is_too_long_or_no_text_is_refused_before_it_is_compiled(grammar: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        gbnf_source(grammar)
    assert refused.value.param == "grammar"


# ---- the compiling process ---------------------------------------------------------------------------------------

CHAIN = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(3000)) + 'r3000 ::= "a"'
"""llguidance recurses for each of these rules, and a process that compiled it ended of its stack."""


def run(work: Callable[[GrammarCompiler], Awaitable[Any]], **options: float) -> Any:
    async def with_compiler() -> Any:
        compiler = GrammarCompiler(**options)
        try:
            return await work(compiler)
        finally:
            await compiler.close()

    return asyncio.run(with_compiler())


async def outcome(compiler: GrammarCompiler, grammar: str, tenant: str = "acme") -> str:
    try:
        return await compiler.compile(gbnf_source(grammar), tenant)
    except TenantdError as e:
        return f"{e.code}: {e.message}"


def test_a_grammar_that_ends_its_compiler_is_refused_and_the_next_one_compiled() -> None:
    async def work(compiler: GrammarCompiler) -> list[str]:
        return [await outcome(compiler, grammar) for grammar in ('root ::= "a"', CHAIN, 'root ::= "b"')]

    first, chain, last = run(work)
    assert "too complex" in chain and chain.startswith("invalid_request")
    assert accepts(first, "a") and accepts(last, "b")


def test_a_grammar_that_takes_too_long_is_refused_and_the_next_one_compiled() -> None:
    async def work(compiler: GrammarCompiler) -> tuple[str, str]:
        await outcome(compiler, 'root ::= "a"')
        compiler._deadline_s = 0.0  # whatever it is now, it is too long
        slow = await outcome(compiler, CHAIN)
        compiler._deadline_s = 5
        return slow, await outcome(compiler, 'root ::= "b"')

    slow, last = run(work)
    assert "took longer than" in slow
    assert accepts(last, "b")


def test_who_took_less_goes_first_and_one_may_have_so_many_waiting() -> None:
    async def work(compiler: GrammarCompiler) -> tuple[list[str], str]:
        order: list[str] = []

        async def one(tenant: str) -> None:
            await compiler.compile(gbnf_source('root ::= "a"'), tenant)
            order.append(tenant)

        many = [asyncio.create_task(one("acme")) for _ in range(1 + MAX_WAITING)]
        await asyncio.sleep(0)
        too_many = await outcome(compiler, 'root ::= "a"')
        await asyncio.gather(*many, *(one("globex") for _ in range(2)))
        return order, too_many

    order, too_many = run(work)
    assert too_many.startswith(QueueFull.code)
    assert order.index("globex") <= 2 and len(order) == MAX_WAITING + 3


def test_who_sends_what_takes_long_waits_behind_who_does_not_however_many_they_are() -> None:
    async def work(compiler: GrammarCompiler) -> list[str]:
        order: list[str] = []

        async def one(tenant: str, grammar: str) -> None:
            await outcome(compiler, grammar, tenant)
            order.append(tenant)

        for name in ("mallory", "trudy", "eve"):
            await one(name, CHAIN)  # ends the compiler, which has to be started again
        slow = [asyncio.create_task(one(name, CHAIN)) for _ in range(2) for name in ("mallory", "trudy", "eve")]
        await asyncio.sleep(0)
        await asyncio.gather(*slow, *(one("acme", 'root ::= "a"') for _ in range(3)))
        return order[3:]

    order = run(work)
    assert order[1:4] == ["acme"] * 3, "after the one that was being compiled when they came"


def test_who_stops_waiting_gives_its_turn_to_the_next() -> None:
    async def work(compiler: GrammarCompiler) -> str:
        first = asyncio.create_task(outcome(compiler, CHAIN))
        second = asyncio.create_task(outcome(compiler, 'root ::= "a"'))
        third = asyncio.create_task(outcome(compiler, 'root ::= "b"'))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        return await asyncio.wait_for(third, 120)

    assert accepts(run(work), "b")


def test_whoever_hangs_up_at_whatever_moment_nobody_gets_anothers_grammar() -> None:
    """Also while the process is being started, and it is started once."""

    async def work(compiler: GrammarCompiler) -> None:
        for turns in [*range(12), *[10 * n for n in range(2, 40)]]:
            gone = asyncio.create_task(outcome(compiler, 'root ::= "gone"', "mallory"))
            for _ in range(turns):
                await asyncio.sleep(0)
            gone.cancel()
            assert accepts(await outcome(compiler, f'root ::= "mine {turns}"'), f"mine {turns}")
        process: Any = compiler._worker.process
        assert [process.pid] == started, "it goes on with the same one"

    started: list[int] = []
    create = asyncio.create_subprocess_exec

    async def counted(*command: Any, **options: Any) -> Any:
        process = await create(*command, **options)
        started.append(process.pid)
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", counted)
        run(work)


def test_an_answer_to_another_question_is_nobodys() -> None:
    async def work(compiler: GrammarCompiler) -> tuple[str, str]:
        await outcome(compiler, 'root ::= "first"')
        stray = msgspec.msgpack.encode(Source("gbnf", 'root ::= "stray"', 7))  # nobody reads what comes of it
        process: Any = compiler._worker.process
        process.stdin.write(len(stray).to_bytes(4, "big") + stray)
        return await outcome(compiler, 'root ::= "late"'), await outcome(compiler, 'root ::= "mine"')

    late, mine = run(work)
    assert late.startswith("invalid_request") and accepts(mine, "mine")
