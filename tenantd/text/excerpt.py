"""Shows a client's text in a message: short, and without control characters. Tells whether it is Unicode."""

from __future__ import annotations

from typing import Any, Final

from tenantd.printable import one_line

MOST_CHARACTERS: Final = 40


def excerpt(value: Any, most: int = MOST_CHARACTERS) -> str:
    """A string in quotes, truncated to `most` characters; a number as it is; for other values their type."""
    if isinstance(value, str):
        return f"'{clean(value, most)}'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value) if -(1 << 63) <= value < 1 << 63 else "a number of more than 64 bits"
    if isinstance(value, float):
        return repr(value)
    return "an object" if isinstance(value, dict) else "a list"


def clean(text: str, most: int) -> str:
    """At most `most` characters, with U+FFFD for each that is not printable."""
    return one_line(text, most) + ("…" if len(text) > most else "")


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
