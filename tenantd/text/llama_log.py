"""llama.cpp's log, kept quiet while a vocabulary loads. Imports llama_cpp."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import llama_cpp

ERROR: Final = 4  # ggml.h, enum ggml_log_level

_errors: list[str] = []
_one_at_a_time = threading.Lock()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes, _: Any) -> None:
    """At module level, so that it lives as long as llama.cpp may call it."""
    if level == ERROR:
        _errors.append(text.decode("utf-8", "replace").strip())


@contextmanager
def only_errors() -> Iterator[list[str]]:
    """Print nothing; the list gets the error lines. The log goes back to whoever had it afterwards."""
    with _one_at_a_time:
        before, its_data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
        llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(its_data))
        _errors.clear()
        llama_cpp.llama_log_set(_keep_errors, ctypes.c_void_p())
        try:
            yield _errors
        finally:
            llama_cpp.llama_log_set(before, its_data)
