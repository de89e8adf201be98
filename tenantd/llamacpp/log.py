"""Captures llama.cpp's log, to explain errors, and forwards important lines to standard error."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import llama_cpp

ERROR: Final = 4  # ggml.h, enum ggml_log_level: 1 debug, 2 info, 3 warn, 4 error, 5 continues the line before
WARN: Final = 3
CONTINUATION: Final = 5
KEPT_LINES: Final = 4000

_lines: deque[str] = deque(maxlen=KEPT_LINES)
_last_level = 0
_is_heard = True


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _callback(level: int, text: bytes, _: Any) -> None:
    global _last_level
    line = text.decode("utf-8", "replace")
    if level == CONTINUATION and _lines:
        _lines[-1] += line
    else:
        _last_level = level
        _lines.append(line)
    if _last_level >= WARN and _is_heard:
        sys.stderr.write(line)
        sys.stderr.flush()


def capture() -> None:
    """Redirect llama.cpp's log here. Safe to call again."""
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))


def capture_projectors() -> None:
    """Redirect the log of llama.cpp's mtmd here, too. Safe to call again."""
    from llama_cpp import mtmd_cpp  # loads a library that only images need

    mtmd_cpp.mtmd_helper_log_set(_callback, ctypes.c_void_p(0))


@contextmanager
def unheard() -> Iterator[None]:
    """Keep lines as always, but forward none to standard error."""
    global _is_heard
    _is_heard = False
    try:
        yield
    finally:
        _is_heard = True


def forget() -> None:
    """Drop what was captured so far."""
    _lines.clear()


def lines() -> list[str]:
    """What was logged since `forget()`, at most KEPT_LINES."""
    return [line.rstrip() for line in _lines]


def reason(fallback: str, most_lines: int = 3) -> str:
    """The last lines that look like an error, for an error message."""
    words = ("error", "failed", "invalid", "unknown", "unable", "corrupted", "unsupported", "unexpected", "expecting")
    found = [line for line in lines() if any(word in line.lower() for word in words)]
    return "; ".join(found[-most_lines:]) or fallback


_errors: list[str] = []
_one_at_a_time = threading.Lock()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes, _: Any) -> None:
    """The callback; at module level, so that it exists as long as llama.cpp may call it."""
    if level == ERROR:
        _errors.append(text.decode("utf-8", "replace").strip())


@contextmanager
def only_errors() -> Iterator[list[str]]:
    """Print nothing; collect error lines in the list. Afterwards restore the previous callback."""
    with _one_at_a_time:
        before, its_data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
        llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(its_data))
        _errors.clear()
        llama_cpp.llama_log_set(_keep_errors, ctypes.c_void_p())
        try:
            yield _errors
        finally:
            llama_cpp.llama_log_set(before, its_data)
