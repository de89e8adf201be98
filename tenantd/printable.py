"""Text that came from outside, made fit to be kept and shown: the one place for the ledger, the log and terminals.

Escape sequences of a client's would be obeyed by whatever terminal shows them, and a newline would forge a line of the
log.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final

REPLACEMENT: Final = "\ufffd"
HIDDEN_PATH: Final = "<path>"
_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0))  # C0, DEL and C1: 0x9b alone begins a sequence
_LINE_ENDS: Final = (0x2028, 0x2029)
_TURNS: Final = (0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))  # of the text's direction
_IN_TEXT: Final = dict.fromkeys((code for code in _CONTROLS if chr(code) not in "\n\t"), REPLACEMENT)
_ESCAPED: Final = {
    **{code: f"\\x{code:02x}" for code in _CONTROLS},
    **{code: f"\\u{code:04x}" for code in (*_LINE_ENDS, *_TURNS)},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}
_PATH: Final = re.compile(r"(?<![\w.:/])/(?!v1/|admin/)[^\s/:'\"]+/[^\s:'\"]*")


def one_line(text: str, most_characters: int | None = None) -> str:
    """At most so many characters (None: all), with U+FFFD for each that is not printable. For names, fields, cells."""
    return "".join(c if c.isprintable() else REPLACEMENT for c in text[:most_characters])


def printable(text: str) -> str:
    """`text` without control characters but newlines and tabs: for answers, and messages of several lines."""
    return text.translate(_IN_TEXT)


def escaped(text: str) -> str:
    """`text` with control characters spelt out, as `\\x1b`: for a line of the log."""
    return text.translate(_ESCAPED)


def without_paths(text: str) -> str:
    """`text` with `<path>` for each absolute path: for those who have no business on this machine's disks."""
    return _PATH.sub(HIDDEN_PATH, text)


class LogFormatter(logging.Formatter):
    """Formats a message as one line, whatever is in it. Tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """`format` has just made `record.message`."""
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """The text of an exception may be a client's."""
        return printable(super().formatException(ei))
