from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.errors import InvalidRequest
from tenantd.text.detokenize import TextStream
from tenantd.text.stops import MOST_STOP_BYTES, StopStrings, check_stops
from tenantd.text.vocabulary import ByteVocabulary

letters = st.text("ab", min_size=1, max_size=6)


def first_stop(text: str, stops: list[str]) -> int | None:
    """By trying everything: where the stop begins that is complete first, the earliest of those complete at once."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return None


def longest_beginning(text: str, stop: str) -> int:
    return max(length for length in range(len(stop)) if text.endswith(stop[:length]))


@given(st.lists(st.text("ab", max_size=7)), st.lists(letters, min_size=1, max_size=4))
def test_a_search_piece_by_piece_finds_what_a_search_of_the_whole_finds(pieces: list[str], stops: list[str]) -> None:
    searched, states, text = StopStrings(stops), [0] * len(stops), ""
    for piece in pieces:
        found = searched.search(states, piece)
        expected = first_stop(text + piece, stops)
        assert (None if found is None else len(text) + found) == expected
        if found is not None:
            return
        text += piece
        assert states == [longest_beginning(text, stop) for stop in stops]


def seconds_a_token(stops: list[str], text: bytes) -> float:
    """CPU time, of a text that every stop string nearly is."""
    stream = TextStream(ByteVocabulary(), stops)
    began_s = time.thread_time()
    for token in text:
        stream.push(token)
    return (time.thread_time() - began_s) / len(text)


def test_a_token_costs_no_more_with_long_stop_strings_than_with_short_ones() -> None:
    text = b"a" * 20_000
    short = min(seconds_a_token(["a" * 5 + chr(98 + n) for n in range(16)], text) for _ in range(3))
    long = min(seconds_a_token(["a" * 255 + chr(98 + n) for n in range(16)], text) for _ in range(3))
    assert long < 4 * short and long < 1e-3


def test_all_stop_strings_of_a_request_may_have_4096_bytes() -> None:
    check_stops(["a" * MOST_STOP_BYTES])
    check_stops(["é" * (MOST_STOP_BYTES // 4), "b" * (MOST_STOP_BYTES // 2)])
    with pytest.raises(InvalidRequest, match="at most 4096 bytes") as e:
        check_stops(["é" * (MOST_STOP_BYTES // 4), "b" * (MOST_STOP_BYTES // 2 + 1)])
    assert e.value.param == "stop"
