"""Lines of a terminal end between words, whatever pieces a text comes in, and nothing else of it changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tenantctl.fences import fence_after
from tenantctl.word_wrap import INDENT, WordWrap
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.fake_generation import MARKDOWN
from tests.cli.test_terminal import terminal as terminal  # a fixture

TEXTS = st.text(st.sampled_from("aé数\u0301\n\t `~"), max_size=80)
CODE = "```\nlet  code = 'as it is, however long it may be';\n```\n"


def wrapped(text: str, width: int, cuts: tuple[int, ...] = ()) -> str:
    """What is printed of a text that comes in pieces, which end at `cuts`, and then ends with its line."""
    wrap = WordWrap(lambda: width)
    ends = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    return "".join(wrap.feed(text[begin:end]) for begin, end in pairwise(ends)) + wrap.feed("\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one two three", "one two\nthree"),
        ("12345678 90", "12345678\n90"),
        ("123 5678 0", "123 5678\n0"),
        ("two\n\nlines  \n", "two\n\nlines  \n"),
        ("a  b  c  d", "a  b  c\nd"),
        ("  in", "  in"),
        ("a https://example.org/x y", "a\nhttps://example.org/x y"),
        ("数数数数数数 数", "数数数数\n数数 数"),
        ("abc数数数", "abc数数\n数"),
        ("    let x = 'a b c'\nlet x = 1", "    let x = 'a b c'\nlet x =\n1"),
        ("a\tb c d e f g h", "a\tb c d e f g h"),
        (f"{CODE}one two three", f"{CODE}one two\nthree"),
        ("~~~~\na b c d e f g\n~~~\nh i j k l m", "~~~~\na b c d e f g\n~~~\nh i j k l m"),
        ("", ""),
    ],
)
def test_lines_end_between_words_and_code_stays_as_it_is(text: str, shown: str) -> None:
    assert wrapped(text, 8) == f"{shown}\n"


@pytest.mark.parametrize("text", ["a" + " " * 1_000_000 + "b", "a" * 1_000_000, "é" + "\u0301" * 1_000_000])
def test_a_line_without_an_end_takes_no_longer_for_each_of_its_characters(text: str) -> None:
    """Else this would take an hour."""
    assert wrapped(text, 0, tuple(range(0, len(text), 20))) == f"{text}\n"


@given(TEXTS, st.integers(0, 12), st.lists(st.integers(0, 80)).map(tuple))
def test_nothing_is_lost_and_pieces_make_no_difference(text: str, width: int, cuts: tuple[int, ...]) -> None:
    shown = wrapped(text, width, cuts)
    assert shown == wrapped(text, width)
    assert re.sub(r"[ \n]", "", shown) == re.sub(r"[ \n]", "", text)
    assert width or shown == f"{text}\n"
    rest, fence = shown, ""
    for line in text.split("\n"):
        is_code = bool(fence) or line.startswith(INDENT)
        assert not is_code or rest.startswith(f"{line}\n")
        fence = fence_after(line, fence)
        pattern = "".join(rf"(?:{each}|\n)" if each.isspace() else f"\n?{re.escape(each)}" for each in _parts(line))
        at_the_end = " " * (len(line) - len(line.rstrip(" ")))
        pattern = pattern.removesuffix(rf"(?:{at_the_end}|\n)") + f"(?:{at_the_end})?"  # left out if they do not fit
        found = re.match(f"{pattern}\n", rest)
        assert found, (line, rest)
        rest = rest[found.end() :]
    assert not rest


def _parts(line: str) -> list[str]:
    """Runs of spaces, wide characters with their accents, and what is between them."""
    return re.findall(r" +|数\u0301*|[^ 数]+", line)


@given(st.lists(st.sampled_from(["a", "bcd", "数数", "efghij"]), max_size=30).map(" ".join), st.integers(6, 20))
def test_no_line_is_wider_than_the_terminal_nor_shorter_than_it_needs_to_be(text: str, width: int) -> None:
    lines = wrapped(text, width).splitlines()
    assert max(map(cell_len, lines), default=0) <= width
    for line, following in pairwise(lines):
        first = re.findall(r"数|[^ 数]+", following)[0]
        assert cell_len(f"{line} {first}") > width or "数" in first + line[-1]


def test_a_terminal_gets_whole_words_and_whole_code(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "--raw", "markdown", columns=24) as screen:
        assert screen.end()[0] == 0
    shown = screen.text.replace("\r\n", "\n")
    assert "A **ledger** is a *book*\nof `entries`. See\n[more](https://example.org/x).\n" in shown
    assert "```python\ndef add(entries: list[int]) -> int:\n\n    return sum(entries)  # exact\n```\n" in shown
    assert shown.split() == MARKDOWN.split()


def test_after_ctrl_c_the_last_word_is_there(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "--raw", "halfway", columns=24) as screen:
        screen.wait_for("begun")
        screen.type(b"\x03")
        assert screen.end() == (130, "cancelled\n")
    assert "".join(screen.text.replace("^C", "").split()) == "begunto"


def test_constrained_answers_and_pipes_are_exact(cli: Cli, terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "--chat", "--schema", "{}", "markdown", columns=24) as screen:
        assert screen.end()[0] == 0
    assert screen.text.replace("\r\n", "\n") == MARKDOWN
    assert cli("run", "--raw", "markdown").stdout == MARKDOWN
