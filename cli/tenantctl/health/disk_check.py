"""Room for the ledger: a full disk pauses all requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, fail, ok, warn
from tenantctl.units import size

NAME: Final = "disk"
LEAST_BYTES: Final = 64 << 20
FEW_BYTES: Final = 1 << 30
FEW_PERCENT: Final = 2
LEAST_FILES: Final = 100


def check(scene: Scene) -> list[Finding]:
    """Of the disk that has the state folder, or will have it."""
    folder = _existing(scene.state_dir)
    found = os.statvfs(folder)
    return [
        judge(
            folder,
            free_bytes=found.f_bavail * found.f_frsize,
            total_bytes=found.f_blocks * found.f_frsize,
            free_files=found.f_favail if found.f_files else None,
            is_read_only=bool(found.f_flag & os.ST_RDONLY),
        )
    ]


def judge(folder: Path, *, free_bytes: int, total_bytes: int, free_files: int | None, is_read_only: bool) -> Finding:
    """`free_files` is None where the number of files is not limited."""
    what = f"{size(free_bytes)} of {size(total_bytes)} free for {folder}"
    if is_read_only:
        return fail(
            NAME, f"the disk of {folder} is read-only", "mount it for writing, or choose another ledger.state_dir"
        )
    if free_bytes < LEAST_BYTES:
        return fail(NAME, f"{what}: requests are refused when it is full", "free some space on this disk")
    if free_files is not None and free_files < LEAST_FILES:
        return fail(NAME, f"only {free_files} files can still be created in {folder}", "remove files from this disk")
    if free_bytes < FEW_BYTES or free_bytes * 100 < total_bytes * FEW_PERCENT:
        return warn(NAME, what, "free some space, or delete old requests: tenantctl ledger prune --before last")
    return ok(NAME, what)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    for each in (folder, *folder.parents):
        if each.is_dir():
            return each
    return Path("/")
