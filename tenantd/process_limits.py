"""What a process asks of the system for itself, before it does anything else: daemon and engine alike."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from typing import Final

MOST_DESCRIPTORS: Final = 16_384
"""Enough for thousands of streams. Each connection also costs memory, so more would only help an attacker."""
LARGE_BLOCK_BYTES: Final = 64 * 1024
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3


def allow_many_connections() -> None:
    """Each client is a file descriptor, and 1024 is the usual soft limit: go as far as we may without asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def write_no_core() -> None:
    """A core file would hold prompts, answers and keys. Children inherit this."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def give_back_large_blocks() -> None:
    """Let glibc return large blocks to the system as soon as they are freed.

    By itself it raises the size from which it does so with each one freed, up to 32 MiB: after a few large request
    bodies the memory of all that follow would stay with the process. Other C libraries are left alone.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES)
