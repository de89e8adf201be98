"""Whether the daemon runs and serves."""

from __future__ import annotations

from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, Level, fail, from_message, ok, warn
from tenantctl.installed import start_command
from tenantctl.units import duration

NAME = "daemon"
FAILED = "failed"


def check(scene: Scene) -> list[Finding]:
    """Not running, not answering, loading, failed; or how long it has been up."""
    if not scene.is_running:
        return [warn(NAME, "is not running", start_command(scene.socket))]
    if (status := scene.status) is None:
        return [_silent(scene.trouble)]
    state = f"tenantd {status['version']}, pid {status['pid']}, up {duration(status['uptime_s'])}, {status['state']}"
    if status["state"] == FAILED:
        return [
            from_message(NAME, Level.FAIL, f"{state}: {status['reason']}", "read the daemon's log, then restart it")
        ]
    if status["state"] != "ready":
        reason = f": {status['reason']}" if status["reason"] else ""
        return [warn(NAME, state + reason, "tenantctl status --wait 120")]
    findings = []
    if restarts := status["engine_restarts"]:
        times = "once" if restarts == 1 else f"{restarts} times"
        what = f"the engine was restarted {times} since the daemon started"
        findings.append(warn(NAME, what, "look for the reason in the daemon's log"))
    return [ok(NAME, state), *findings]


def _silent(trouble: str) -> Finding:
    return fail(NAME, f"cannot be queried: {trouble}", "run this as root or as the daemon's user")
