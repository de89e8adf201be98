"""Default locations of files: the environment, else the XDG folders. Standard library only, so that the command
line does not have to load the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final


def default_config_path() -> Path:
    """TENANTD_CONFIG, else the XDG config folder."""
    if env := os.environ.get("TENANTD_CONFIG"):
        return Path(env)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "tenantd" / "config.toml"


def default_state_dir() -> Path:
    """TENANTD_STATE_DIR, else the XDG state folder."""
    if env := os.environ.get("TENANTD_STATE_DIR"):
        return Path(env)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "tenantd"


def default_socket() -> Path:
    """TENANTD_SOCKET, else the XDG runtime folder, else the state folder."""
    if env := os.environ.get("TENANTD_SOCKET"):
        return Path(env)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "tenantd" / "tenantd.sock"
    return default_state_dir() / "tenantd.sock"


# -- a service of the whole machine, which `tenantctl service install` sets up

SYSTEM_CONFIG: Final = Path("/etc/tenantd/config.toml")
SYSTEM_SOCKET: Final = Path("/run/tenantd/tenantd.sock")
SYSTEM_STATE_DIR: Final = Path("/var/lib/tenantd")
SYSTEM_UNITS: Final = Path("/etc/systemd/system")


def user_units() -> Path:
    """Where a user's own systemd units are."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "systemd" / "user"
