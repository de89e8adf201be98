from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.api import values
from tenantd.api.values import check_values
from tenantd.errors import InvalidRequest

nasty = st.text('"\\{}[],:a', max_size=8)
documents = st.recursive(
    nasty | st.integers(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(nasty, inner, max_size=4),
    max_leaves=20,
)


def contained(value: object) -> int:
    """Texts, names, objects and lists, by looking at each."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(contained, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(contained, value))
    return int(isinstance(value, str))


@given(documents, st.integers(1, 9))
def test_texts_objects_and_lists_are_counted_whatever_is_in_the_texts(document: object, slice_bytes: int) -> None:
    body, count = json.dumps(document).encode(), contained(document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "SLICE_BYTES", slice_bytes)
        patch.setattr(values, "MOST_CONTAINED", count)
        check_values(body)
        patch.setattr(values, "MOST_CONTAINED", count - 1)
        if count:
            with pytest.raises(InvalidRequest):
                check_values(body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" + b'"a",' * 70_000, "65536 strings, objects and lists"),
        (b"[" + b'"\\\\",' * 70_000, "65536 strings, objects and lists"),
        (b"[" + b"{}," * 70_000, "65536 strings, objects and lists"),
        (b"[" + b"1," * 1_100_000, "1048576 values"),
        (b"[" + b"9" * 17_000_000, "16777216 bytes outside strings"),
    ],
)
def test_what_would_take_the_parser_long_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        check_values(body)


def test_a_long_text_full_of_code_is_one_value() -> None:
    check_values(json.dumps({"prompt": 'x = {"a": [1, 2], "\\\\": []}\n' * 200_000}).encode())


def test_counting_takes_less_than_parsing() -> None:
    for text in (b'\\"', b"\\\\", b",[", b"a"):
        body = b'{"prompt": "' + text * (16_000_000 // len(text)) + b'"}'
        began_s = time.thread_time()
        check_values(body)
        assert time.thread_time() - began_s < 1
