"""All checks of the doctor, each within its time: none changes anything, and one that hangs holds up no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tenantctl.health import (
    adapter_check,
    build_check,
    config_check,
    daemon_check,
    disk_check,
    isolation_age,
    ledger_check,
    listener_check,
    memory_check,
    model_check,
    socket_check,
    state_check,
)
from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, fail

MOST_SECONDS: Final = 70.0
"""For each check; longer than any waits for a program that it runs."""


class Check(NamedTuple):
    """A check of one thing. `run` returns nothing if there is no such thing here."""

    name: str
    run: Callable[[Scene], list[Finding]]


CHECKS: Final = (
    Check(config_check.NAME, config_check.check),
    Check(daemon_check.NAME, daemon_check.check),
    Check(socket_check.NAME, socket_check.check),
    Check(listener_check.NAME, listener_check.check),
    Check(build_check.NAME, build_check.check),
    Check(model_check.NAME, model_check.check),
    Check(memory_check.NAME, memory_check.check),
    Check(state_check.NAME, state_check.check),
    Check(disk_check.NAME, disk_check.check),
    Check(ledger_check.NAME, ledger_check.check),
    Check(adapter_check.NAME, adapter_check.check),
    Check(isolation_age.NAME, isolation_age.check),
)


def run_all(
    scene: Scene, checks: tuple[Check, ...] = CHECKS, most_s: float = MOST_SECONDS
) -> Iterator[tuple[str, list[Finding]]]:
    """Run all at the same time. Yields name and findings of each, in order."""
    running = [_Running(check, scene) for check in checks]
    until_s = time.monotonic() + most_s
    for one in running:
        yield one.check.name, one.findings(max(0.0, until_s - time.monotonic()), most_s)


class _Running:
    """A check in a thread of its own, which ends with the program."""

    def __init__(self, check: Check, scene: Scene) -> None:
        self.check = check
        self._scene = scene
        self._found: list[Finding] | None = None
        self._thread = threading.Thread(target=self._run, name=f"check-{check.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self.check.run(self._scene)
        except OSError as e:
            what = f"cannot look at {e.filename}: {e.strerror}" if e.filename else f"cannot look: {e}"
            self._found = [fail(self.check.name, what, "run this as root or as the daemon's user")]
        except Exception as e:  # one check's bug must not hide what the others find
            self._found = [
                fail(self.check.name, f"this check itself failed: {e!r}", "report this as a bug in tenantctl")
            ]

    def findings(self, wait_s: float, most_s: float) -> list[Finding]:
        """What it has found once it has ended, or that it has not."""
        self._thread.join(wait_s)
        if self._found is None:
            cure = "look for a disk or a driver that does not answer"
            return [fail(self.check.name, f"not done within {most_s:g} s", cure)]
        return self._found
