"""Clients of the HTTP library that the installed `openai` uses: httpx2 from version 3 on, httpx before."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import openai

_MAJOR = int(openai.__version__.partition(".")[0])
_http: Any = importlib.import_module("httpx2" if _MAJOR >= 3 else "httpx")


def on_socket(path: Path) -> Any:
    """An HTTP client for `openai.OpenAI`, with the defaults of its own."""
    return openai.DefaultHttpxClient(transport=_http.HTTPTransport(uds=str(path)))


def on_socket_async(path: Path) -> Any:
    """As `on_socket`, for `openai.AsyncOpenAI`."""
    return openai.DefaultAsyncHttpxClient(transport=_http.AsyncHTTPTransport(uds=str(path)))
