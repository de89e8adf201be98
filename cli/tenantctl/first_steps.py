"""What `tenantctl` alone prints: how to begin, and the names of all commands. Fits a small terminal."""

from __future__ import annotations

import textwrap
from typing import Final

from tenantctl.catalogue import ENTRIES

WIDTH: Final = 79
_BEGIN: Final = """\
Serve one model to many tenants and track what each one uses.

How to begin:
  tenantctl init --model model.gguf     write a configuration file
  tenantctl serve                       run the daemon
  tenantctl tenant add acme             add a tenant and print its key
  tenantctl run --tenant acme "Hello"   get an answer
  tenantctl chat --tenant acme          have a conversation
"""
_END: Final = "\ntenantctl --help describes them; tenantctl COMMAND --help shows examples."


def first_steps() -> str:
    """The text, without a line end after it."""
    panels: dict[str, list[str]] = {}
    for name, entry in ENTRIES.items():
        if not name.startswith("_"):
            panels.setdefault(entry.panel, []).append(name)
    width = max(map(len, panels)) + 2
    lines = [
        textwrap.fill(f"{panel:{width}}{' '.join(names)}", WIDTH, subsequent_indent=" " * width)
        for panel, names in panels.items()
    ]
    return "\n".join([_BEGIN, *lines, _END])
