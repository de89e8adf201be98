"""The state folder, which has the ledger: who may enter and write it, and which daemon uses it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tenantctl.health.kernel_locks import write_locks
from tenantctl.health.scene import Scene, heard
from tenantctl.health.verdicts import Finding, Level, fail, from_message, ok
from tenantd.errors import ConfigError

NAME: Final = "state folder"
LOCK_NAME: Final = "daemon.lock"


def check(scene: Scene) -> list[Finding]:
    """Missing, of another user, writable by others, or used by a daemon that listens elsewhere."""
    from tenantd.api.listener import check_state_folder

    folder = scene.state_dir
    if not os.path.lexists(folder):
        return [ok(NAME, f"{folder} is created at the first start")]
    if not os.access(folder, os.R_OK | os.X_OK):
        return [fail(NAME, f"cannot enter {folder}", "run this as root or as the daemon's user")]
    if not folder.is_dir():
        return [fail(NAME, f"{folder} is not a folder", "remove it, or choose another ledger.state_dir")]
    findings = []
    with heard() as warnings:
        try:
            check_state_folder(folder, scene.uid)
        except ConfigError as e:
            findings.append(from_message(NAME, Level.FAIL, e.message))
    findings += [from_message(NAME, Level.WARN, line) for line in warnings]
    if not scene.is_running and (pid := holder(folder / LOCK_NAME)):
        what = f"tenantd (pid {pid}) uses {folder}, but does not listen on {scene.socket}"
        findings.append(fail(NAME, what, f"find its socket in its log and pass --socket, or stop it: kill {pid}"))
    return findings or [ok(NAME, str(folder))]


def holder(lock: Path) -> int:
    """The daemon that holds a lock, 0 if none does."""
    return next((one.pid for one in write_locks(lock) if one.is_whole), 0)
