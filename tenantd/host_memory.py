"""The memory of the machine, as far as this process may use it."""

from __future__ import annotations

from pathlib import Path

import psutil


def host_memory() -> tuple[int, int]:
    """Free and total memory for this process in bytes: the machine's, or less if a cgroup limits it."""
    memory = psutil.virtual_memory()
    free, total = int(memory.available), int(memory.total)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        text = limit.read_text().strip()
        if text != "max":
            free, total = min(free, int(text) - int(used.read_text())), min(total, int(text))
    except (OSError, ValueError):
        pass  # no cgroup v2: use the machine's figures
    return free, total
