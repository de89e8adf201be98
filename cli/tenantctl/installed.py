"""Which daemon of this machine is meant: the user's own, or the service of the whole machine; and where its files are.

Nothing here changes from one to the other because a daemon is stopped: that would send commands to the wrong one.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Final

from tenantctl.render import message
from tenantd import paths
from tenantd.paths import default_config_path, default_socket, default_state_dir

SERVICE_UNIT: Final = "tenantd.service"
SERVE: Final = "tenantctl serve"
OWN_PLACES: Final = ("TENANTD_CONFIG", "TENANTD_SOCKET", "TENANTD_STATE_DIR")
"""Variables that mean a daemon in particular."""


def find_socket(given: Path | None, *, quiet: bool = False) -> Path:
    """The first of: --socket, TENANTD_SOCKET, the configuration file, the default. For a user with no daemon of their
    own, that of the machine's service, if it is installed.

    Warns about a broken configuration file unless `quiet`; the daemon may be running with an earlier version of it.
    """
    if given is not None:
        return given
    if means_the_machines():
        return paths.SYSTEM_SOCKET
    configured = None if os.environ.get("TENANTD_SOCKET") else _configured("server", "socket", quiet=quiet)
    return configured or default_socket()


def configured_state_dir(*, quiet: bool = False) -> Path:
    """The first of: TENANTD_STATE_DIR, the configuration file, the default, of the same daemon."""
    if means_the_machines():
        return paths.SYSTEM_STATE_DIR
    configured = None if os.environ.get("TENANTD_STATE_DIR") else _configured("ledger", "state_dir", quiet=quiet)
    return configured or default_state_dir()


def after_init(config: Path | None) -> str:
    """What comes next once a configuration was written, there or at the default place."""
    if config is not None and config.absolute() == paths.SYSTEM_CONFIG:
        return "next: tenantctl service install --system"
    if config is not None:
        return f"next: {SERVE} --config {config}"
    if is_users_installed():
        return "next: systemctl --user restart tenantd"
    if is_machines_installed():
        return "tenantd is a service on this machine; this file is for another daemon, with its own ledger"
    return f"next: {SERVE}"


def config_path() -> Path:
    """The configuration of the same daemon."""
    return paths.SYSTEM_CONFIG if means_the_machines() else default_config_path()


def configured_anchor() -> Path | None:
    """The file of security.anchor, if it is set and exists."""
    path = _configured("security", "anchor", quiet=False)
    return path if path is not None and path.is_file() else None


def means_the_machines() -> bool:
    """Whether the user has no daemon of their own, running or not, and the machine has one as a service."""
    if any(os.environ.get(name) for name in OWN_PLACES):
        return False
    own = (default_config_path(), default_socket(), default_state_dir() / "ledger.db")
    return is_machines_installed() and not any(map(os.path.exists, own))


def is_machines_installed() -> bool:
    """Whether this machine has tenantd as a service."""
    return os.path.exists(paths.SYSTEM_SOCKET) or (paths.SYSTEM_UNITS / SERVICE_UNIT).exists()


def is_users_installed() -> bool:
    """Whether this user has tenantd as a service."""
    return (paths.user_units() / SERVICE_UNIT).exists()


def how_to_start(socket: Path) -> str:
    """What to do if no daemon listens on this socket. A daemon that is installed is started, not another one with an
    empty ledger."""
    command = start_command(socket)
    if command != SERVE:
        return f"start it with: {command}"
    if is_machines_installed():
        return f"for this machine's service, pass: --socket {paths.SYSTEM_SOCKET}"
    if not os.path.exists(config_path()):
        here = f"write a configuration with tenantctl init, then start one with: {command}"
        return f"{here}; for a daemon on another machine, pass --url URL or set TENANTD_URL"
    return f"start one with: {command}"


def start_command(socket: Path) -> str:
    """The command that starts the daemon of this socket."""
    if socket == paths.SYSTEM_SOCKET:
        return "systemctl start tenantd"
    if is_users_installed() and socket == find_socket(None, quiet=True):
        return "systemctl --user start tenantd"
    return SERVE


def _configured(section: str, key: str, *, quiet: bool) -> Path | None:
    """A path in the configuration file, if it is set."""
    path = config_path()
    try:
        settings = tomllib.loads(path.read_text("utf-8")).get(section)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        if isinstance(e, PermissionError) and path == paths.SYSTEM_CONFIG:
            return None  # it is for root and the daemon to read
        if not quiet:
            message(f"warning: cannot read {path} ({e}); trying the default {key.replace('_', ' ')}")
        return None
    configured = settings.get(key) if isinstance(settings, dict) else None
    return Path(configured).expanduser() if isinstance(configured, str) and configured else None
