"""The ledger: readable, of this version, undamaged as far as a few seconds tell, and in step with the clock."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantctl.health.kernel_locks import program, write_locks
from tenantctl.health.scene import Scene
from tenantctl.health.state_check import LOCK_NAME, holder
from tenantctl.health.verdicts import Finding, Level, fail, from_message, ok, warn
from tenantctl.ledger_place import LEDGER_NAME
from tenantctl.units import duration, moment
from tenantd.banner import size
from tenantd.errors import TenantdError

if TYPE_CHECKING:
    from tenantd.ledger.glance import Glance

NAME: Final = "ledger"
CLOCK: Final = "clock"
MOST_SECONDS: Final = 3.0
"""How long to look for damage."""
TOLERANCE_S: Final = 5.0
LONG_S: Final = 1.0
"""How long a lock must be held to be a problem."""
EARLIEST_S: Final = 1_735_689_600  # 2025
RIGHT_CLOCK: Final = "set the clock, for example with: timedatectl set-ntp true"


def check(scene: Scene) -> list[Finding]:
    """The file, and what the running daemon says of it; then the clock."""
    from tenantd.ledger.glance import glance

    path = scene.state_dir / LEDGER_NAME
    if scene.status is not None and (trouble := judge_running(scene.status["ledger"])) is not None:
        return [trouble]
    if not os.access(scene.state_dir, os.X_OK):
        what = f"cannot be read: permission denied: {scene.state_dir}"
        there = os.path.lexists(scene.state_dir)
        return [fail(NAME, what, "run this as root or as the daemon's user") if there else _none(), _clock(None)]
    if not os.path.lexists(path):
        return [_none(), _clock(None)]
    try:
        found = glance(path, MOST_SECONDS)
    except TenantdError as e:
        return [from_message(NAME, Level.FAIL, e.message, "run this as root or as the daemon's user"), _clock(None)]
    return [*judge(str(path), found), *_locked(scene, path), _clock(found)]


def judge(path: str, found: Glance) -> list[Finding]:
    """What a look at the file means."""
    findings = []
    if found.damage:
        return [from_message(NAME, Level.FAIL, found.damage)]
    if found.owner_uid not in (os.geteuid(), found.folder_uid):
        what = f"{path} belongs to user {found.owner_uid}, and its folder to user {found.folder_uid}"
        findings.append(fail(NAME, what, f"chown {found.folder_uid} {path}*"))
    if found.mode & 0o077:
        findings.append(warn(NAME, f"{path} has mode {found.mode:04o}; it holds bills", f"chmod 600 {path}"))
    if found.schema < found.newest_schema:
        what = f"has schema {found.schema}; the next start upgrades it to {found.newest_schema}"
        findings.append(ok(NAME, what))
    checked = (
        "no damage found"
        if found.is_whole
        else f"no damage found in {MOST_SECONDS:g} s, but it was not read to the end"
    )
    return findings or [ok(NAME, f"{path}, {size(found.size_bytes)}, {checked}")]


def _locked(scene: Scene, path: Path) -> list[Finding]:
    """Other programs that keep a lock on the ledger for longer than a moment."""
    files = (path, path.with_name(f"{path.name}-shm"))  # a write-ahead log is locked there
    own = {os.getpid(), scene.status["pid"] if scene.status else 0, holder(path.with_name(LOCK_NAME))}

    def pids() -> set[int]:
        return {lock.pid for file in files for lock in write_locks(file)} - own

    if first := pids():
        time.sleep(LONG_S)
        first &= pids()
    return [
        fail(NAME, f"process {pid} ({program(pid) or 'unknown'}) holds a lock on {path}", "close that program")
        for pid in sorted(first)
    ]


def judge_running(ledger: dict[str, Any]) -> Finding | None:
    """A finding if the running daemon cannot write it."""
    if ledger["healthy"]:
        return None
    return from_message(NAME, Level.FAIL, f"cannot be written: {ledger['trouble']}", "read the daemon's log")


def judge_clock(now_s: float, newest_s: float) -> Finding:
    """`newest_s` is the time of the newest row, 0 if there is none."""
    if now_s < EARLIEST_S:
        return fail(CLOCK, f"it is {moment(round(now_s * 1e6))}: the clock is not set", RIGHT_CLOCK)
    if newest_s - now_s > TOLERANCE_S:
        what = f"it is {moment(round(now_s * 1e6))}, {duration(newest_s - now_s)} before the newest row of the ledger"
        return fail(CLOCK, f"{what}: months and bills will be wrong", RIGHT_CLOCK)
    return ok(CLOCK, moment(round(now_s * 1e6)) + (", after every row of the ledger" if newest_s else ""))


def _clock(found: Glance | None) -> Finding:
    return judge_clock(time.time(), 0 if found is None else found.newest_micros / 1e6)


def _none() -> Finding:
    return ok(NAME, "none yet; it is created at the first start")
