from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout

import pytest

from tenantctl.main import app
from tenantctl.render import aligned, harmless, print_fields, print_json, print_table
from tests.cli.fake_daemon import FakeDaemon


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(show: Callable[[], None], monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What `show` prints on a terminal of 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", **environment}.items():
        monkeypatch.setenv(name, value)
    with redirect_stdout(Terminal()) as screen:
        show()
    return screen.getvalue()


def plain(screen: str) -> str:
    """Without the escape sequences of colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", screen)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    lines = aligned([["name", "n"], ["acme", "1000"], ["initech", "2"]], [False, True])
    assert lines == ["name        n", "acme     1000", "initech     2"]


def test_lines_do_not_end_in_spaces() -> None:
    assert aligned([["a", "label"], ["b", "x"]], [False, False]) == ["a  label", "b  x"]


def test_a_table_in_a_pipe_is_plain_and_has_no_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["tenant", "limit>"], [("acme", None), ("globex", 0)])
    assert capsys.readouterr().out == "tenant  limit\nacme        -\nglobex      0\n"


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["tenant", "limit>"], [])
    assert capsys.readouterr().out == "tenant  limit\n"


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in on_terminal(lambda: print_table(["tenant"], [("acme",)]), monkeypatch)


def test_a_narrow_terminal_gets_fewer_columns_and_whole_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def show() -> None:
        print_table(["id", "a>", "b", "c"], [("r" * 36, 1, "x" * 20, "y" * 15)] * 2, ["c", "a"])

    shown = plain(on_terminal(show, monkeypatch)).splitlines()
    rows = [line.split() for line in shown if "r" * 36 in line]
    assert rows == [["r" * 36, "1", "x" * 20]] * 2 and max(map(len, shown)) <= 80
    assert capsys.readouterr().err == "left out on this terminal: c; --json shows everything\n"
    assert "y" * 15 in on_terminal(show, monkeypatch, COLUMNS="100")
    assert not capsys.readouterr().err


def test_columns_with_nothing_in_them_are_the_first_to_be_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("r" * 36, None, "x" * 22, "y" * 10)] * 2
    shown = plain(on_terminal(lambda: print_table(["id", "a", "b", "c"], rows, ["c", "a"]), monkeypatch))
    assert "y" * 10 in shown
    assert capsys.readouterr().err == "left out on this terminal: a; --json shows everything\n"


@pytest.mark.parametrize("length", range(9, 30))  # wherever the options fall
def test_what_was_left_out_is_told_in_lines_that_split_no_option(
    length: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["tenant", *(f"{i}".rjust(length, "c") for i in range(1, 9))]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    on_terminal(lambda: print_table(columns, [["x"] * 9], columns[1:], full=("--json", "--csv")), monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    assert " ".join(lines).endswith("; --json and --csv show everything")


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    def show() -> None:
        print_table(["tenant"], [("acme",)])
        print_fields({"name": "acme"})

    assert "\x1b[3" in on_terminal(show, monkeypatch)
    shown = on_terminal(show, monkeypatch, NO_COLOR="1")
    assert "\x1b[3" not in shown
    assert "acme" in shown


def test_a_narrow_terminal_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    show = functools.partial(print_table, ["request"], [("req_0123456789abcdef0123456789",)])
    assert "req_0123456789abcdef0123456789" in "".join(on_terminal(show, monkeypatch, COLUMNS="20").split())


def test_brackets_in_cells_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "[red]x[/red]" in on_terminal(lambda: print_table(["label"], [("[red]x[/red]",)]), monkeypatch)


def test_cells_carry_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["label"], [("a\x1b[2Jb\nc",)])
    assert capsys.readouterr().out == "label\na\ufffd[2Jb\ufffdc\n"


def test_generated_text_keeps_its_lines_and_loses_its_escapes() -> None:
    assert harmless("a\tb\nc\x1b[2J\x9b1m\x07é") == "a\tb\nc\ufffd[2J\ufffd1m\ufffdé"


def test_json_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, 2], "b": "ö"})
    assert capsys.readouterr().out == '{"a": [1, 2], "b": "ö"}\n'


def test_json_is_indented_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_terminal(lambda: print_json({"a": 1}), monkeypatch) == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize(
    ("arguments", "first", "columns"),
    [
        (["tenant", "list"], "a-16-char-tenant", {"state", "weight", "priority", "requests/min", "tokens/min"}),
        (["requests"], "f" * 8, {"request", "tenant", "state", "time", "prompt", "output", "cost"}),
    ],
)
def test_a_row_of_the_long_tables_is_a_line_of_80_columns(
    arguments: list[str], first: str, columns: set[str], daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"tokens_per_minute": 600_000, "requests_per_minute": 6_000}
    daemon.add("a-16-char-tenant", throttled_micros=1, uids=[1001, 1002], limits=limits)
    daemon.request = {"id": "req_" + "f" * 32, "tenant": "initech", "state": "interrupted", "error": "engine_failure"}
    shown = plain(on_terminal(lambda: app(arguments, standalone_mode=False), monkeypatch)).splitlines()
    assert max(map(len, shown)) <= 80
    [header] = [line for line in shown if "state" in line]
    assert columns <= set(header.split())
    rows = [line for line in shown if first in line]
    assert len(rows) == 1 and any(word in rows[0] for word in ("throttled", "interrupted"))
    assert len([line for line in shown if line.strip(" ─")]) == 2, "a header and one line"
