"""Listeners on TCP: their certificates, and what others can read on the way."""

from __future__ import annotations

from typing import Final

from tenantctl.health.scene import Scene, heard
from tenantctl.health.verdicts import Finding, Level, from_message, ok, warn
from tenantd.errors import ConfigError
from tenantd.listen_settings import entry

NAME: Final = "listeners"


def check(scene: Scene) -> list[Finding]:
    """Of each: whether its certificate can be used, and for how long."""
    from tenantd.api.tls import load

    listeners = () if scene.config is None else scene.config.server.listen
    findings = []
    for number, one in enumerate(listeners):
        name = entry(number)
        if one.cert is not None and one.key is not None:
            with heard() as warnings:
                try:
                    loaded = load(name, one.cert, one.key)
                    warnings += [f"{name}: {loaded.warning}"] if loaded.warning else []
                except ConfigError as e:
                    findings.append(from_message(NAME, Level.FAIL, e.message, "correct it, then restart the daemon"))
            findings += [from_message(NAME, Level.WARN, line) for line in warnings]
        elif not one.is_loopback:
            what = f"{one.address} is not encrypted: others can read keys, prompts and answers on the way"
            findings.append(warn(NAME, what, "set cert and key in [[server.listen]]"))
    return findings or ([ok(NAME, ", ".join(one.address for one in listeners))] if listeners else [])
