"""Makes text from outside safe to store and show; used by the ledger, the log and terminals.

A terminal would obey a client's escape sequences, and a newline would forge a line of the
log.
"""

from __future__ import annotations

import logging
import re
import textwrap
from typing import Any, Final

REPLACEMENT: Final = "\ufffd"
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
HIDDEN_PATH: Final = "<path>"
_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0))  # C0, DEL and C1: 0x9b alone begins a sequence
LINE_ENDS: Final = (0x2028, 0x2029)
TURNS: Final = (0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))  # text direction
_IN_TEXT: Final = dict.fromkeys((code for code in _CONTROLS if chr(code) not in "\n\t"), REPLACEMENT)
_IN_MESSAGE: Final = {**_IN_TEXT, **dict.fromkeys(TURNS, REPLACEMENT)}
_ESCAPED: Final = {
    **{code: f"\\x{code:02x}" for code in _CONTROLS},
    **{code: f"\\u{code:04x}" for code in (*LINE_ENDS, *TURNS)},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}
_PATH: Final = re.compile(r"(?<![\w.:/])/(?!v1/|admin/)[^\s/:'\"]+/[^\s:'\"]*")


def one_line(text: str, most_characters: int | None = None) -> str:
    """At most `most` characters (None: all), with U+FFFD for each unprintable one. For names, fields, cells."""
    return "".join(c if c.isprintable() else REPLACEMENT for c in text[:most_characters])


def printable(text: str) -> str:
    """`text` without control characters except newlines and tabs: for answers."""
    return text.translate(_IN_TEXT)


def as_message(text: str) -> str:
    """The same, and without what turns the direction of text around: for messages, which name files and the like."""
    return text.translate(_IN_MESSAGE)


def wrapped(line: str, width: int, indent: str = "") -> str:
    """Lines that end between words. Neither options nor paths are split, so that they can be copied."""
    if len(line) <= width:
        return line
    wrapper = textwrap.TextWrapper(
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
    return wrapper.fill(line)


def escaped(text: str) -> str:
    """`text` with control characters escaped, as `\\x1b`: for a log line."""
    return text.translate(_ESCAPED)


def for_spreadsheet(text: str) -> str:
    """`text` for a cell of a CSV file. A spreadsheet would run what looks like a formula, unless it begins with "'".
    Python's writer leaves carriage returns without quotes, so they become spaces."""
    is_formula = text.startswith(_FORMULAS) and not _NUMBER.fullmatch(text)
    return (f"'{text}" if is_formula else text).replace("\r", " ")


def without_paths(text: str) -> str:
    """`text` with `<path>` for each absolute path: for clients that must not see paths of this machine."""
    return _PATH.sub(HIDDEN_PATH, text)


class LogFormatter(logging.Formatter):
    """Formats a message as one line, whatever it contains. Tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Called after `format` has set `record.message`."""
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """The text of an exception may come from a client."""
        return printable(super().formatException(ei))
