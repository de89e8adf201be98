"""The configuration file, and whether others can read what it may hold."""

from __future__ import annotations

import stat

from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, Level, fail, from_message, ok, warn

NAME = "config"


def check(scene: Scene) -> list[Finding]:
    """Missing, wrong, outdated, or readable by all with a secret in it."""
    if not scene.has_file:
        return [warn(NAME, f"{scene.config_path} does not exist", "tenantctl init")]
    if scene.config is None:
        return [_mistake(message, scene) for message in scene.mistakes]
    findings = [from_message(NAME, Level.WARN, message) for message in scene.warnings]
    mode = scene.config_path.stat().st_mode
    if mode & stat.S_IROTH and scene.config.alerts.url.get_secret_value():
        what = "every user can read it, and alerts.url may hold a token"
        findings.append(warn(NAME, what, f"chmod o-r {scene.config_path}"))
    if mode & stat.S_IWOTH:
        findings.append(fail(NAME, "every user can change it", f"chmod o-w {scene.config_path}"))
    return findings or [ok(NAME, f"{scene.config_path} is valid")]


def _mistake(message: str, scene: Scene) -> Finding:
    finding = from_message(NAME, Level.FAIL, message)
    return finding if finding.cure else finding._replace(cure=f"edit {scene.config_path}")
