"""The LoRA adapters of tenants: a tenant whose adapter is missing gets no answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, fail, ok
from tenantctl.ledger_place import LEDGER_NAME
from tenantctl.units import plural
from tenantd.errors import TenantdError

NAME: Final = "adapters"
MOST_SECONDS: Final = 3.0
MOST_NAMED: Final = 10


def check(scene: Scene) -> list[Finding]:
    """Each adapter of a tenant that is not removed."""
    from tenantd.ledger.glance import adapters

    try:
        found = adapters(scene.state_dir / LEDGER_NAME, MOST_SECONDS)
    except TenantdError:
        return []  # the check of the ledger says why
    return judge(found, _trouble)


def judge(found: Sequence[tuple[str, str]], trouble_of: Callable[[str], str]) -> list[Finding]:
    """`found` are tenants with their adapters; `trouble_of` tells what is wrong with one, "" if nothing."""
    if not found:
        return []
    troubles = {path: trouble_of(path) for path in sorted({path for _, path in found})}
    bad = [(tenant, troubles[path]) for tenant, path in found if troubles[path]]
    findings = [
        fail(
            NAME,
            f"tenant {tenant}: {trouble}",
            f"tenantctl tenant set {tenant} --adapter FILE, or --adapter '' for none",
        )
        for tenant, trouble in bad[:MOST_NAMED]
    ]
    if (more := len(bad) - MOST_NAMED) > 0:
        findings.append(fail(NAME, f"and those of {more} more tenants", "tenantctl tenant list --json names them"))
    return findings or [ok(NAME, f"{plural(len(troubles), 'adapter')} of {plural(len(found), 'tenant')}")]


def _trouble(path: str) -> str:
    from tenantd.llamacpp.gguf import NotGguf, check_adapter

    try:
        check_adapter(Path(path))
    except NotGguf as e:
        return str(e)
    return ""
