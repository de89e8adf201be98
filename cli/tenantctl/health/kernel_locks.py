"""Who holds locks on files, as the kernel lists them: to try a lock could keep a daemon from getting it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

LOCKS: Final = Path("/proc/locks")
COMMANDS: Final = Path("/proc")


class Lock(NamedTuple):
    """A lock for writing. `is_whole` tells flock(2) from fcntl(2), whose locks have a range."""

    pid: int
    disk: tuple[int, int]  # major and minor number
    inode: int
    is_whole: bool


def write_locks(path: Path, listed: Path = LOCKS) -> list[Lock]:
    """The locks for writing on a file; none if it is not there or they cannot be read."""
    try:
        found = path.stat()
        lines = listed.read_text().splitlines()
    except OSError:
        return []
    disk = os.major(found.st_dev), os.minor(found.st_dev)
    is_named_alike = disk[0] != 0  # where files are not on one disk, as with btrfs and NFS, the kernel's lists differ
    return [
        lock
        for line in lines
        for lock in _parsed(line.split())
        if lock.inode == found.st_ino and (lock.disk == disk or not is_named_alike)
    ]


def program(pid: int) -> str:
    """The name of a process, "" if it has ended or is hidden."""
    try:
        return (COMMANDS / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def _parsed(words: list[str]) -> Iterator[Lock]:
    """One line: number, kind, ADVISORY, READ or WRITE, process, disk and inode, range. Who waits has an arrow."""
    if len(words) >= 8 and words[1] in ("FLOCK", "POSIX") and words[3] == "WRITE":
        major, minor, inode = words[5].split(":")
        if words[4].isdecimal():  # -1 is a process that cannot be seen from here
            yield Lock(int(words[4]), (int(major, 16), int(minor, 16)), int(inode), words[1] == "FLOCK")
