"""Calls, reasoning and content are told apart in the same way, however the text is split."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.text.calls import CallForm, CallReader
from tests.support.examples import examples
from tests.text.scripts import NAMES, PARIS, SCRIPTS, Script, read, reading

PIECES = sorted({piece for script in SCRIPTS.values() for piece in (script.text, *script.text.split("{", 1))})


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_is_read_as_it_is_meant_wherever_it_is_cut(script: Script) -> None:
    text, expected = script.text, list(script.parts)
    assert read(reading(script).reader(), [text]) == expected
    assert read(reading(script).reader(), text) == expected
    for place in range(len(text) + 1):
        assert read(reading(script).reader(), [text[:place], text[place:]]) == expected, place


@examples(300)
@given(st.sampled_from([*SCRIPTS.values()]), st.lists(st.sampled_from(PIECES), max_size=4), st.data())
def test_any_text_is_read_the_same_whole_and_in_pieces(script: Script, pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    size = data.draw(st.integers(1, 9))
    expected = read(reading(script).reader(), [text])
    assert read(reading(script).reader(), [text[at : at + size] for at in range(0, len(text), size)]) == expected
    for (kind, _), (after, arguments) in zip(expected, [*expected[1:], ("", "")], strict=False):
        if kind == "call":
            assert after == "arguments" and isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_with_one_call_wanted_everything_ends_after_the_first(script: Script) -> None:
    whole = list(script.parts)
    calls = [place for place, (kind, _) in enumerate(whole) if kind == "call"]
    expected = whole[: calls[0] + 2] if calls else whole
    reader = reading(script, most_calls=1).reader()
    assert read(reader, script.text) == expected
    assert reader.is_done == bool(calls)


def test_a_call_that_is_certain_is_told_as_it_arrives() -> None:
    reader = CallReader(CallForm("<tool_call>"), NAMES, is_certain=True)
    text = f'<tool_call>{{"name": "get_weather", "arguments": {PARIS}}}'
    told = [[(part.kind, part.text) for part in reader.push(character)] for character in text]
    begin = text.index(PARIS)
    assert not any(told[:begin])
    assert told[begin] == [("call", "get_weather"), ("arguments", "{")]
    assert told[begin + 1 : begin + len(PARIS)] == [[("arguments", character)] for character in PARIS[1:]]
    assert not any(told[begin + len(PARIS) :]) and reader.finish() == []


def test_arguments_that_are_text_with_half_a_character_are_no_call() -> None:
    text = '<tool_call>{"name": "look", "arguments": "{\\"a\\": \\"\\ud800\\"}"}</tool_call>'
    assert read(CallReader(CallForm("<tool_call>"), NAMES), [text]) == [("content", text)]
