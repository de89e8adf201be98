"""When the isolation between tenants was last checked, and with what result."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, fail, ok, warn
from tenantctl.units import duration

NAME: Final = "isolation"
FILE_NAME: Final = "isolation.json"
MOST_BYTES: Final = 1 << 20
OLD_S: Final = 30 * 86_400
AGAIN: Final = "tenantctl doctor --isolation"


def check(scene: Scene) -> list[Finding]:
    """As the running daemon says, or its file."""
    if scene.status is None and os.path.lexists(scene.state_dir) and not os.access(scene.state_dir, os.X_OK):
        return []  # the check of this folder says why
    last = _read(scene.state_dir / FILE_NAME) if scene.status is None else scene.status["isolation"]
    return [judge(last, time.time())]


def judge(last: dict[str, Any] | None, now_s: float) -> Finding:
    """`last` is the last report, None before the first."""
    if last is None:
        return warn(NAME, "was never checked on this machine", AGAIN)
    age_s = max(0.0, now_s - last["checked_micros"] / 1e6)
    what = f"{last['result']} {duration(age_s)} ago ({'quick' if last['quick'] else 'full'} check)"
    if last["result"] == "failed":
        return fail(NAME, what, f"stop serving tenants that must not see each other; then {AGAIN}")
    if last["result"] != "held" or age_s > OLD_S:
        return warn(NAME, what, AGAIN)
    return ok(NAME, what)


def _read(path: Path) -> dict[str, Any] | None:
    """The last report; None if there is none that can be read."""
    try:
        with path.open("rb") as file:
            found: dict[str, Any] = json.loads(file.read(MOST_BYTES))
        return found if {"result", "quick", "checked_micros"} <= found.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
