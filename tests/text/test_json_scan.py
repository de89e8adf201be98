from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.text.json_scan import MOST_DEPTH, JsonScanner

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


def scanned(text: str, size: int = 10**9) -> JsonScanner:
    scanner = JsonScanner()
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        if scanner.feed(piece) < len(piece):
            break
    return scanner


@given(OBJECTS, st.booleans(), st.integers(1, 5), st.sampled_from(["", "}", " x", '{"a": 1}']))
def test_it_ends_where_the_object_does_and_knows_where_its_values_are(
    value: dict[str, Any], is_ascii: bool, size: int, after: str
) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=size if size < 3 else None)
    scanner = scanned(text + after, size)
    assert scanner.is_done and scanner.offset == len(text)
    assert {key: json.loads(text[start:end]) for key, (start, end) in scanner.values.items()} == value


@given(OBJECTS, st.data())
def test_it_is_as_strict_as_the_standard_library(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    place = data.draw(st.integers(0, len(text) - 1))
    broken = (
        text[:place]
        + data.draw(st.sampled_from(['"', "\\", ",", "{", "]", "0", "-", "e", "\n", "", "x"]))
        + text[place + 1 :]
    )
    scanner = scanned(broken)
    try:
        read, end = json.JSONDecoder(parse_constant=refuse).raw_decode(broken)
    except ValueError:
        assert not scanner.is_done
    else:
        assert scanner.is_done == isinstance(read, dict)
        assert not scanner.is_done or scanner.offset == end


def refuse(name: str) -> None:
    raise ValueError(name)


@pytest.mark.parametrize(
    "text",
    [
        *("[", "1", '"', "x", "{1", "{a", '{"a" 1', '{"a": }', '{"a": 1,}', '{"a": [1,]', '{"a": [}', '{"a": 01}'),
        *('{"a": 1.}', '{"a": +1}', '{"a": nul ', '{"a": N'),
        *('{"a": "\n', '{"a": "\\x', '{"a": "\\u12g', "{,", '{"a"}'),
    ],
)  # fmt: skip
def test_it_fails_at_the_first_character_that_cannot_be(text: str) -> None:
    assert scanned(text).has_failed
    assert not scanned(text[:-1]).has_failed


def test_depth_and_numbers_are_bounded() -> None:
    assert scanned('{"a": ' + "[" * (MOST_DEPTH - 1)).has_failed is False
    assert scanned('{"a": ' + "[" * MOST_DEPTH).has_failed
    assert scanned('{"a": ' + "1" * 1000).has_failed


def test_an_open_value_has_no_end() -> None:
    scanner = scanned('{"a": 1, "b": {"c": "d')
    assert scanner.values == {"a": (6, 7), "b": (14, -1)}
