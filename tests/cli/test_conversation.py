from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantctl import streamed_markdown
from tenantctl.conversation import SETTINGS, Conversation
from tenantctl.streamed_markdown import MarkdownScreen, complete
from tenantd.errors import InvalidRequest
from tests.cli.fake_generation import MARKDOWN


def test_a_conversation_is_sent_whole_and_kept_in_a_file() -> None:
    said = Conversation("Be brief.")
    said.set("temperature", "0.5")
    said.set("max_tokens", "20")
    said.set("stop", "END of it")
    said.add("one", "eins")
    body = said.body("two")
    assert [m["content"] for m in body["messages"]] == ["Be brief.", "one", "eins", "two"]
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0.5, 20, ["END of it"])
    again = Conversation.of(said.text())
    assert again.body("two") == body


def test_a_message_is_sent_again_without_its_answer_which_stays_until_another_comes() -> None:
    said = Conversation()
    assert said.last_message == ""
    said.add("one", "eins")
    said.unsent = "two"
    assert said.last_message == "two", "what got no answer goes first"
    said.unsent = ""
    assert said.last_message == "one"
    assert [m["content"] for m in said.body("one", again=True)["messages"]] == ["one"]
    assert [m["content"] for m in said.messages] == ["one", "eins"]
    said.add("one", "un", again=True)
    assert [m["content"] for m in said.messages] == ["one", "un"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temprature", "1", "did you mean temperature?"),
        ("ignore_eos", "true", "there are"),
        ("temperature", "warm", "must be a number (got 'warm')"),
        ("temperature", "nan", "must be a number"),
        ("top_k", "1.5", "must be a whole number"),
    ],
)
def test_a_wrong_setting_is_refused_and_says_what_there_is(name: str, value: str, words: str) -> None:
    said = Conversation()
    with pytest.raises(InvalidRequest) as e:
        said.set(name, value)
    assert words in e.value.message and not said.settings


def test_every_setting_can_be_reset() -> None:
    said = Conversation()
    for name in SETTINGS:
        said.set(name, "1")
        assert name in said.settings
        said.set(name, "default")
    assert not said.settings


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"messages": [{"role": "user", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "y"}]}',
        '{"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]}',
        '{"messages": [], "settings": {"nonsense": 1}}',
        '{"messages": [], "system": 7}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_no_conversation_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Conversation.of(text)


def test_markdown_is_cut_only_where_blocks_end() -> None:
    ends = {complete(MARKDOWN[:n]) for n in range(len(MARKDOWN) + 1)}
    blocks = [MARKDOWN[a:b] for a, b in itertools.pairwise(sorted(ends))]
    assert [block.split()[0] for block in blocks] == ["#", "A", "1.", "2.", "```python", "|"]
    assert blocks[4].count("```") == 2, "a fence is whole, with its empty line"
    assert complete("```\n\na\n\nb\n") == 0
    assert complete("~~~\n```\n~~~\n\na") == len("~~~\n```\n~~~\n\n")


@given(st.lists(st.sampled_from(["a", " ", "\n", "\n\n", "```", "~~~", "# ", "- ", "|", "1. ", "\x1b[31m", "[x](y)"])))
def test_any_markdown_is_shown_whole_and_harmless(pieces: list[str]) -> None:
    """Whatever is generated, in whatever pieces, the letters are all there, and no escape sequence of the model."""
    screen, out = MarkdownScreen(), io.StringIO()
    screen._console.file = out
    for piece in pieces:
        screen.write(piece)
        assert list(screen._console.render_lines(screen.growing())) is not None
    screen.end()
    assert "\x1b[31m" not in out.getvalue()
    if not {"```", "~~~", "[x](y)"} & set(pieces):  # the name of a language and the like are not shown
        assert out.getvalue().count("a") == pieces.count("a")


def test_what_grows_is_no_longer_than_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("COLUMNS", "40")
    screen = MarkdownScreen()
    screen._text = "```\n" + "".join(f"line {n}\n" for n in range(1000))
    drawn = [line for line in screen._console.render_lines(streamed_markdown._Growing(screen), pad=False) if line]
    shown = ["".join(segment.text for segment in line) for line in drawn]
    assert len(shown) <= 8
    assert shown[-1] == "line 999", "as code, though its fence has scrolled away"
