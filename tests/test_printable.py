"""Text from outside is fit to be kept and shown."""

from __future__ import annotations

import io
import logging

import pytest

from tenantd.printable import LogFormatter, escaped, one_line, printable, without_paths

EVIL = "a\x1b[31mred\x9b2J\x07\r\n\x7f\u2028b\u202e"


def log_of(message: str, *arguments: object, fails: bool = False) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        if fails:
            raise ValueError(EVIL)
        logger.warning(message, *arguments)
    except ValueError:
        logger.exception(message, *arguments)
    return stream.getvalue()


def test_a_field_is_one_line_without_anything_a_terminal_obeys() -> None:
    assert one_line(EVIL) == "a\ufffd[31mred\ufffd2J\ufffd\ufffd\ufffd\ufffd\ufffdb\ufffd"
    assert one_line("häßlich 🎉 日本") == "häßlich 🎉 日本"
    assert one_line("long", 2) == "lo"


def test_an_answer_keeps_its_lines_and_nothing_else_that_a_terminal_obeys() -> None:
    assert printable("a\tb\nc\x1b]0;x\x07\x9b") == "a\tb\nc\ufffd]0;x\ufffd\ufffd"


def test_a_log_line_is_one_line_and_shows_what_was_sent() -> None:
    assert log_of("refused: %s", EVIL) == ("WARNING refused: a\\x1b[31mred\\x9b2J\\x07\\r\\n\\x7f\\u2028b\\u202e\n")
    assert escaped("2026-11-24 ERROR forged\n") == "2026-11-24 ERROR forged\\n"


def test_a_traceback_keeps_its_lines_and_no_escape() -> None:
    text = log_of("failed", fails=True)
    assert text.startswith("ERROR failed\nTraceback (most recent call last):\n") and "ValueError: a\ufffd[31m" in text
    assert "\x1b" not in text and "\x9b" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/models/a.gguf: No such file", "<path>: No such file"),
        ("cannot open '/srv/x y/a.gguf'", "cannot open '<path> y/a.gguf'"),
        ("the model is loading; GET /readyz says how far it is", None),
        ("POST to /v1/chat/completions or /admin/v1/status", None),
        ("tokens/second, application/json, http://tenantd/v1/models, 3/4/5", None),
    ],
)
def test_paths_of_this_machine_are_hidden_and_routes_are_not(text: str, shown: str | None) -> None:
    assert without_paths(text) == (text if shown is None else shown)
