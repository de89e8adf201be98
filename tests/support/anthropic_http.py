"""Clients of the HTTP library that the installed `anthropic` uses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anthropic


def on_socket(path: Path) -> Any:
    """An HTTP client for `anthropic.Anthropic`, with the defaults of its own."""
    kind = next(base for base in anthropic.DefaultHttpxClient.__mro__ if base.__name__ == "Client")
    transport = sys.modules[kind.__module__.partition(".")[0]].HTTPTransport(uds=str(path))
    return anthropic.DefaultHttpxClient(transport=transport)
