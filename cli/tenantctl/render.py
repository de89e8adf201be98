"""Output: tables on a terminal, aligned plain text in a pipe, JSON on request.

Data goes to standard output, messages go to standard error. rich is imported only for terminals.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from tenantctl.units import NOTHING
from tenantd.printable import LINE_ENDS, TURNS, as_message, one_line, printable, wrapped

_BETWEEN: Final = 3
"""Columns of the terminal between those of a table."""
_NARROWEST: Final = 8
USUAL_WIDTH: Final = 80
_REPORT_NAME: Final = 12
"""Columns for what a finding is about."""
TOTAL: Final = "TOTAL"
"""Name of the row of sums. No tenant can have it."""
SHORT_ID_DIGITS: Final = 8
"""Of a request id; the last ones, because the first are its time."""
_LEFT_BY_JSON: Final = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *LINE_ENDS, *TURNS)}


def message(text: str) -> None:
    """Print a line for people to standard error; on a terminal, in lines that end between words."""
    text = as_message(text)
    if sys.stderr.isatty():
        width = _message_width()
        text = "\n".join(wrapped(line, width) for line in text.split("\n"))
    print(text, file=sys.stderr, flush=True)


def _message_width() -> int:
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_WIDTH
    except (OSError, ValueError):
        return USUAL_WIDTH


def complain(text: str) -> None:
    """Print an error to standard error."""
    message(f"tenantctl: {text}")


def print_json(data: Any) -> None:
    """One JSON value: one line in a pipe, indented on a terminal."""
    text = json.dumps(data, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    print(text.translate(_LEFT_BY_JSON))


def harmless(text: str) -> str:
    """Generated text that is safe for a terminal: without escape sequences, whatever the model wrote."""
    return printable(text)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    spare: Sequence[str] = (),
    *,
    full: Sequence[str] = ("--json",),
    hint: bool = True,
) -> bool:
    """A header and its rows. A column whose name ends with ">" is aligned to the right.

    `spare` are columns to leave out, the first ones first, while a row is wider than the terminal. Returns whether
    some were left out. A hint names them, and the options `full` that show them; without `hint` the caller says it.
    """
    names = [column.removesuffix(">") for column in columns]
    right = [column.endswith(">") for column in columns]
    cells = [[_cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        left_out = _print_rich_table(names, right, cells, spare)
        if left_out and rows and hint:
            verb = "show" if len(full) > 1 else "shows"
            message(f"left out on this terminal: {', '.join(left_out)}; {' and '.join(full)} {verb} everything")
        return bool(left_out and rows)
    _print_plain_table(names, right, cells)
    return False


def print_wide_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """All columns, each row in one line, however wide the terminal is."""
    names = [column.removesuffix(">") for column in columns]
    cells = [[_cell(value) for value in row] for row in rows]
    widest = _print_plain_table(names, [column.endswith(">") for column in columns], cells)
    if sys.stdout.isatty() and widest > terminal_width():
        message("lines are wider than this terminal; add | less -S to scroll sideways")


def _print_plain_table(names: list[str], right: list[bool], cells: list[list[str]]) -> int:
    """Returns the length of the longest line."""
    lines = aligned([names, *cells], right)
    print("\n".join(lines))
    return max(map(len, lines))


def narrow_hint(*full: str) -> None:
    """Say that columns of several tables were left out, and which options show them."""
    verb = "show" if len(full) > 1 else "shows"
    message(f"this terminal is too narrow for all columns; {' and '.join(full)} {verb} everything")


def aligned(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Columns two spaces apart, as wide as they need to be."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(right))]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def print_fields(fields: dict[str, object]) -> None:
    """Print one object: a name and a value per line."""
    width = max(len(name) for name in fields)
    if not sys.stdout.isatty():
        print("\n".join(f"{name.ljust(width)}  {_cell(value)}" for name, value in fields.items()))
        return
    from rich.text import Text

    console = _console()
    for name, value in fields.items():
        start = name.ljust(width) + "  "
        lines = wrapped(start + _cell(value), console.width, " " * len(start))
        console.print(Text.assemble((lines[: len(start)], "cyan"), lines[len(start) :]), soft_wrap=True)


_LEVEL_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def print_report(level: str, name: str, what: str, cure: str) -> None:
    """A finding: its level, what it is about, and what was seen; the cure on a line of its own."""
    start = f"{level:<4}  {name:<{_REPORT_NAME}}  "
    what, cure = one_line(what), one_line(cure)
    if not sys.stdout.isatty():
        print(start + what)
        if cure:
            print(f"{' ' * len(start)}→ {cure}")
        return
    from rich.text import Text

    console, indent = _console(), " " * len(start)
    lines = wrapped(start + what, console.width, indent)
    console.print(Text.assemble((lines[: len(level)], _LEVEL_STYLES[level]), lines[len(level) :]), soft_wrap=True)
    if cure:
        console.print(Text(wrapped(f"{indent}→ {cure}", console.width, f"{indent}  "), "cyan"), soft_wrap=True)


def tenant_names(tenants: Sequence[dict[str, Any]]) -> list[str]:
    """How to call each tenant of a report: with its id if another has its name, because one was removed or renamed."""
    count = Counter(tenant["tenant"] for tenant in tenants)
    return [t["tenant"] if count[t["tenant"]] == 1 else f"{t['tenant']} (id {t['tenant_id']})" for t in tenants]


def short_names(names: Sequence[str]) -> list[str]:
    """On a terminal, names cut in their middle to a quarter of its width, unless two would look the same."""
    if not sys.stdout.isatty():
        return list(names)
    most = max(16, terminal_width() // 4)
    cut = [name if len(name) <= most else f"{name[: most - most // 2]}…{name[1 - most // 2 :]}" for name in names]
    count = Counter(cut)
    return [short if count[short] == 1 else name for name, short in zip(names, cut, strict=True)]


def short_each(names: Sequence[str]) -> list[str]:
    """`short_names` for names of which some may be the same."""
    different = sorted(set(names))
    shown = dict(zip(different, short_names(different), strict=True))
    return [shown[name] for name in names]


def short_ids(ids: Sequence[str]) -> list[str]:
    """On a terminal, the ends of request ids, which commands take as well, unless two would look the same."""
    if not sys.stdout.isatty():
        return list(ids)
    count = Counter(request_id[-SHORT_ID_DIGITS:] for request_id in set(ids))
    return [end if count[end := each[-SHORT_ID_DIGITS:]] == 1 else each for each in ids]


def terminal_width() -> int:
    """Columns of the terminal."""
    return int(_console().width)


def heading(text: str) -> None:
    """Print a line above a table, as part of the data."""
    text = one_line(text)
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.text import Text

    _console().print(Text(text, "bold"), soft_wrap=True)


def note(text: str) -> None:
    """Print a sentence that is part of the data; on a terminal, in lines that end between words."""
    text = one_line(text)
    print(wrapped(text, terminal_width(), "    ") if sys.stdout.isatty() else text)


def _cell(value: object) -> str:
    return ("" if value is None else one_line(str(value))) or NOTHING


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)  # knows NO_COLOR, TERM and the width


def _fitting(
    names: list[str], cells: list[list[str]], widths: list[int], spare: Sequence[str], width: int
) -> list[int]:
    """Which columns to show: of those to spare, the ones with nothing in them are the first to go."""
    kept = list(range(len(names)))
    is_empty = {name: all(row[i] == NOTHING for row in cells) for i, name in enumerate(names)}
    for name in sorted((name for name in spare if name in names), key=lambda name: not is_empty[name]):
        if sum(widths[i] for i in kept) + _BETWEEN * len(kept) <= width:
            break
        kept.remove(names.index(name))
    return kept


def _print_rich_table(names: list[str], right: list[bool], cells: list[list[str]], spare: Sequence[str]) -> list[str]:
    """Returns the names of columns that were left out."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    console = _console()
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    kept = _fitting(names, cells, widths, spare, console.width)
    left_out = [name for i, name in enumerate(names) if i not in kept]
    if left_out:
        names, right = [names[i] for i in kept], [right[i] for i in kept]
        widths = [widths[i] for i in kept]
        cells = [[row[i] for i in kept] for row in cells]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    widest = widths.index(max(widths))
    # Only the widest column is folded, so that ids stay whole; on a very narrow terminal all are.
    is_one_folded = sum(widths) - widths[widest] + _BETWEEN * len(names) + _NARROWEST <= console.width
    for index, (name, to_right) in enumerate(zip(names, right, strict=True)):
        whole = is_one_folded and index != widest
        table.add_column(name, justify="right" if to_right else "left", overflow="fold", no_wrap=whole)
    for row in cells:
        table.add_row(*[Text(cell) for cell in row])  # Text: brackets in a cell are no markup
    console.print(table)
    return left_out
