"""Process settings that daemon and engine apply at start, before anything else."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from pathlib import Path
from typing import Final

MOST_DESCRIPTORS: Final = 16_384
"""Enough for thousands of streams. Each connection also costs memory, so more would only help an attacker."""
LARGE_BLOCK_BYTES: Final = 64 * 1024
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h
OOM_SCORE: Final = Path("/proc/self/oom_score_adj")


def allow_many_connections() -> None:
    """Raise the soft limit on file descriptors (usually 1024) as far as allowed; each client needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def hide_memory() -> None:
    """Keep what is in memory, such as prompts, answers and keys, out of core files and debuggers.

    No core file is written, and only root may attach or read the memory: the kernel gives the files of /proc/PID to
    root. A program started from here has to do this again. Raises OSError.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def die_first() -> None:
    """When memory is short, let the kernel end this process before all others that it may choose.

    Call it before `hide_memory`, which gives the file to root.
    """
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text("1000", "ascii")


def lock_much_memory() -> None:
    """Raise the soft limit on locked memory as far as allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def give_back_large_blocks() -> None:
    """Let glibc return large blocks to the system as soon as they are freed.

    By default it raises the threshold with each freed block, up to 32 MiB: after a few large request
    bodies, the memory of all later ones would stay with the process. Has no effect on other C libraries.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES)
