"""Query parameters of the administration routes."""

from __future__ import annotations

from typing import Final

from tenantd.errors import InvalidRequest

MOST_DIGITS: Final = 18


def whole_number(name: str, text: str) -> int:
    """A parameter that must be a whole number. Raises InvalidRequest."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        raise InvalidRequest(f"{name}: must be a whole number, not {text[:40]!r}", param=name)
    return int(text)
