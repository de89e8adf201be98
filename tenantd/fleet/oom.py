"""Reads the kernel's count of processes killed because memory was short."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")
WHOLE_MACHINE: Final = Path("/proc/vmstat")


def oom_kills() -> int:
    """The count for this process's cgroup including children, or for the machine if cgroup v2 has no count."""
    for file in (_own_events(), WHOLE_MACHINE):
        try:
            for line in file.read_text("ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        except (OSError, ValueError):
            pass  # no such file: try the next one
    return 0


def _own_events() -> Path:
    try:
        lines = OWN_CGROUP.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    return CGROUPS / own / "memory.events"
