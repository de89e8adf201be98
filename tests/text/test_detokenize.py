from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.text.detokenize import TextStream
from tenantd.text.vocabulary import ByteVocabulary


class Pieces(ByteVocabulary):
    """Token n is the n-th of these byte strings."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._given = pieces

    def piece(self, token: int) -> bytes:
        return self._given[token]


def streamed(pieces: list[bytes], stops: list[str]) -> tuple[list[str], TextStream]:
    stream = TextStream(Pieces(pieces), stops)
    texts = [stream.push(token) for token in range(len(pieces))]
    return [*texts, stream.finish()], stream


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


few_letters = st.text("ab\n€", min_size=1, max_size=4)
some_bytes = st.one_of(st.binary(max_size=5), few_letters.map(str.encode))


@given(st.lists(some_bytes))
def test_without_stops_the_text_is_all_the_bytes_decoded(pieces: list[bytes]) -> None:
    texts, stream = streamed(pieces, [])
    assert "".join(texts) == b"".join(pieces).decode("utf-8", "replace")
    assert not stream.stopped


@given(st.lists(some_bytes), st.lists(few_letters, min_size=1, max_size=3))
def test_however_it_is_cut_into_tokens_the_text_ends_at_the_first_stop(pieces: list[bytes], stops: list[str]) -> None:
    texts, stream = streamed(pieces, stops)
    whole, is_stopped = cut(b"".join(pieces).decode("utf-8", "replace"), stops)
    assert ("".join(texts), stream.stopped) == (whole, is_stopped)


@given(st.lists(st.text("abc", max_size=3).map(str.encode)), st.text("abc", min_size=1, max_size=4))
def test_no_more_is_held_back_than_could_begin_a_stop(pieces: list[bytes], stop: str) -> None:
    stream = TextStream(Pieces(pieces), [stop])
    sent = made = ""
    for token, piece in enumerate(pieces):
        made += piece.decode()
        sent += stream.push(token)
        if stream.stopped:
            break
        held = made[len(sent) :]
        assert stop.startswith(held) and held != stop


def test_half_a_character_waits_for_its_other_half() -> None:
    llama = "🦙".encode()
    assert streamed([b"a" + llama[:1], llama[1:3], llama[3:] + b"b"], [])[0] == ["a", "", "🦙b", ""]


def test_half_a_character_at_the_end_is_a_replacement_character() -> None:
    assert streamed([b"ok\xf0\x9f"], [])[0] == ["ok", "\ufffd"]


def test_a_stop_may_span_tokens_and_nothing_follows_it() -> None:
    texts, stream = streamed([b"one E", b"N", b"D two", b" three"], ["END"])
    assert texts == ["one ", "", "", "", ""]
    assert stream.stopped


def test_what_turns_out_to_be_no_stop_is_sent() -> None:
    texts, stream = streamed([b"E", b"N", b"ERGY"], ["END"])
    assert texts == ["", "", "ENERGY", ""]
    assert not stream.stopped


def test_a_half_stop_at_the_end_is_text() -> None:
    assert streamed([b"the EN"], ["END"])[0] == ["the ", "EN"]


def test_an_empty_stop_is_a_bug_of_the_caller() -> None:
    with pytest.raises(AssertionError):
        TextStream(ByteVocabulary(), ["x", ""])


def test_a_long_stop_costs_no_more_memory_than_itself() -> None:
    texts, stream = streamed([b"a" * 9_999, b"a", b"a"], ["a" * 10_000])
    assert (texts, stream.stopped) == (["", "", "", ""], True)
