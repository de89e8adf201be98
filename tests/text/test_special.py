from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.text import special
from tenantd.text.special import Spellings

few_letters = st.text("ab<|>.", max_size=5)


def split_slowly(text: str, spellings: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    start = position = 0
    while position < len(text):
        here = [spelling for spelling in spellings if spelling and text.startswith(spelling, position)]
        if here:
            longest = max(here, key=len)
            pairs.append((text[start:position], longest))
            start = position = position + len(longest)
        else:
            position += 1
    return [*pairs, (text[start:], "")] if start < len(text) else pairs


@given(st.text("ab<|>.", max_size=30), st.lists(few_letters, max_size=6))
def test_the_leftmost_longest_spelling_is_found(text: str, spellings: list[str]) -> None:
    assert list(Spellings(spellings).split(text)) == split_slowly(text, spellings)


def test_thousands_of_spellings_are_found_in_a_large_text_at_once() -> None:
    spellings = Spellings(f"<unused{n}>" for n in range(6000))
    text = "a < b <unused x> <unused5999>" * 10_000
    assert sum(spelling == "<unused5999>" for _, spelling in spellings.split(text)) == 10_000


@given(st.text("ab<|>.", max_size=60), st.lists(few_letters, max_size=6), st.integers(1, 9))
def test_chunks_are_the_text_and_begin_with_spellings(text: str, spellings: list[str], least: int) -> None:
    chunks = list(Spellings(spellings).chunks(text, least))
    assert "".join(chunks) == text
    assert all(len(chunk) >= least for chunk in chunks[:-1])
    assert all(chunk.startswith(tuple(filter(None, spellings))) for chunk in chunks[1:])


@given(st.text("ab<|>.", max_size=30), st.lists(few_letters, max_size=6), st.integers(1, 5))
def test_a_search_in_windows_finds_what_one_of_the_whole_finds(text: str, spellings: list[str], window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(special, "WINDOW_CHARACTERS", window)
        assert list(Spellings(spellings).split(text)) == split_slowly(text, spellings)
