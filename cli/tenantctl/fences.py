"""Fences, between which Markdown has code."""

from __future__ import annotations

import re
from typing import Final

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")


def fence_after(line: str, fence: str) -> str:
    """The fence that is open after a line, given the one before it; "" if none is."""
    found = _FENCE.match(line)
    if not fence:
        return found[1] if found else ""
    return "" if found and found[1].startswith(fence) and line.strip() == found[1] else fence
