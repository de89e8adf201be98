"""What llama.cpp writes to standard error past its log: its grammar parser does, and repeats the client's grammar."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")
MOST_BYTES: Final = 64 * 1024
STDERR: Final = 2


def divert(call: Callable[[], T]) -> tuple[T, str]:
    """The result of `call`, and what was written to file descriptor 2 meanwhile, by C code too.

    For the engine's one thread only: what another thread writes at the time ends up here.
    """
    sys.stderr.flush()
    own = os.dup(STDERR)
    file = os.memfd_create("stderr")
    try:
        os.dup2(file, STDERR)
        try:
            result = call()
            sys.stderr.flush()
        finally:
            os.dup2(own, STDERR)
        return result, os.pread(file, MOST_BYTES, 0).decode("utf-8", "replace")
    finally:
        os.close(own)
        os.close(file)
