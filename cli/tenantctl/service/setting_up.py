"""Puts a service into force: what is checked, which files are written, what systemd is told."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tenantctl.render import message
from tenantctl.service import accounts
from tenantctl.service.unit_text import SERVICE, SOCKET, Plan, service_text, socket_text
from tenantctl.whole_files import write_whole
from tenantd import paths
from tenantd.errors import Conflict, Forbidden, NotFound, TenantdError

BOOTED: Final = Path("/run/systemd/system")
"""Exists where systemd runs the machine (sd_booted(3))."""
UNITS: Final = (SOCKET, SERVICE)
STATE: Final = ("ActiveState", "SubState", "Result", "MainPID", "StatusText", "NRestarts", "UnitFileState")


def unit_folder(*, is_machines: bool) -> Path:
    """Where the units are."""
    return paths.SYSTEM_UNITS if is_machines else paths.user_units()


def unit_files(plan: Plan) -> dict[Path, str]:
    """The units' files and what is in them."""
    folder = unit_folder(is_machines=plan.is_machines)
    return {folder / SOCKET: socket_text(plan), folder / SERVICE: service_text(plan)}


def install(plan: Plan, *, with_new_ledger: bool) -> None:
    """Write the units and start the service, or start it again if they have changed. Raises TenantdError."""
    is_machines = plan.is_machines
    if is_machines:
        _require_root("install")
    files = unit_files(plan)
    _check_no_links(files)
    listens = is_installed(is_machines=is_machines) and _is_active(SOCKET, is_machines=is_machines)
    if not listens:
        _check_nobody_listens(plan.socket)
    if is_machines:
        if not with_new_ledger:
            _check_no_other_ledger(plan.state_dir)
        accounts.make_user(plan.state_dir)
        accounts.make_group(plan.socket_group, "may connect to the service")
        if plan.admin_group:
            accounts.make_group(plan.admin_group, "administer it")
        accounts.let_read(plan.config)
    has_changed = _write(files)
    if not is_systemd_running():
        message("systemd is not running here; where it is, start the service with:")
        message(f"  systemctl {'' if is_machines else '--user '}enable --now {SOCKET} {SERVICE}")
    elif has_changed or not _is_active(SERVICE, is_machines=is_machines):
        _start(is_machines=is_machines)
    else:
        message("the service is running, and its units have not changed")


def _start(*, is_machines: bool) -> None:
    systemctl("daemon-reload", is_machines=is_machines)
    systemctl("stop", *UNITS, is_machines=is_machines)
    systemctl("reset-failed", *UNITS, is_machines=is_machines, check=False)
    systemctl("enable", "--quiet", *UNITS, is_machines=is_machines)
    message("starting tenantd; this takes as long as the model takes to load")
    try:
        systemctl("start", *UNITS, is_machines=is_machines)
    except TenantdError:
        raise TenantdError("the service is installed, but did not start; see: tenantctl service logs") from None


def uninstall(*, is_machines: bool) -> None:
    """Stop the service and remove its units; what it has written stays. Raises TenantdError."""
    if is_machines:
        _require_root("uninstall")
    _require_installed(is_machines=is_machines)
    if is_systemd_running():
        systemctl("disable", "--quiet", "--now", SERVICE, SOCKET, is_machines=is_machines)
    for name in UNITS:
        (unit_folder(is_machines=is_machines) / name).unlink(missing_ok=True)
    if is_systemd_running():
        systemctl("daemon-reload", is_machines=is_machines)


def state(*, is_machines: bool) -> dict[str, str]:
    """What systemd knows of the service. Raises NotFound if it is not installed, TenantdError."""
    _require_installed(is_machines=is_machines)
    require_systemd()
    found = systemctl("show", SERVICE, f"--property={','.join(STATE)}", is_machines=is_machines)
    shown = dict(line.partition("=")[::2] for line in found.splitlines())
    return {name: shown.get(name, "") for name in STATE}


def is_systemd_running() -> bool:
    return BOOTED.is_dir()


def require_systemd() -> None:
    """Raises TenantdError where it is not running."""
    if not is_systemd_running():
        raise TenantdError("systemd is not running here, so neither is the service; start the daemon: tenantctl serve")


def systemctl(*arguments: str, is_machines: bool, check: bool = True) -> str:
    """What systemctl prints. Raises TenantdError with what it complains of."""
    command = ["systemctl", *([] if is_machines else ["--user"]), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise TenantdError("systemctl not found: this needs systemd") from None
    if check and done.returncode:
        raise TenantdError(f"{' '.join(command)}: {done.stderr.strip() or f'exited with status {done.returncode}'}")
    return done.stdout


def _is_active(unit: str, *, is_machines: bool) -> bool:
    if not is_systemd_running():
        return False
    return systemctl("is-active", unit, is_machines=is_machines, check=False).strip() == "active"


def is_installed(*, is_machines: bool) -> bool:
    """Whether there is a unit of tenantd."""
    return (unit_folder(is_machines=is_machines) / SERVICE).exists()


def _require_installed(*, is_machines: bool) -> None:
    if not is_installed(is_machines=is_machines):
        option = " --system" if is_machines else " --user"
        raise NotFound(f"tenantd is not installed as a service; install it with: tenantctl service install{option}")


def _require_root(verb: str) -> None:
    if os.geteuid() != 0:
        program = Path(sys.argv[0]).absolute()
        raise Forbidden(f"only root can do this for the whole machine: sudo {program} service {verb} --system")


def _check_nobody_listens(path: Path) -> None:
    """Raises Conflict if a daemon runs that is not the service."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise Conflict(f"a daemon that is not this service listens on {path}; stop it first")


def _check_no_other_ledger(state_dir: Path) -> None:
    """Raises Conflict if the service would begin with an empty ledger, although whoever installs it has one."""
    if (state_dir / "ledger.db").exists():
        return
    folders = {paths.default_state_dir()}
    if name := os.environ.get("SUDO_USER"):
        with contextlib.suppress(KeyError):
            folders.add(Path(pwd.getpwnam(name).pw_dir) / ".local/state/tenantd")
    for folder in sorted(folders - {state_dir}):
        if (folder / "ledger.db").exists():
            raise Conflict(
                f"there is a ledger in {folder}, and the service would begin with an empty one; stop the daemon that "
                f"uses it and move it: mv -T {folder} {state_dir}; or pass --new-ledger"
            )


def _check_no_links(files: Iterable[Path]) -> None:
    """Raises Conflict. A masked unit is a link to /dev/null, which must not be written to, and keep its mode."""
    for path in files:
        if path.is_symlink():
            raise Conflict(f"{path} is a link to {path.readlink()}; remove it, or if it is masked: systemctl unmask")


def _write(files: dict[Path, str]) -> bool:
    """Returns whether something has changed."""
    changed = {path: text for path, text in files.items() if not path.is_file() or path.read_bytes() != text.encode()}
    for path, text in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        path.chmod(0o644)
        message(f"wrote {path}")
    return bool(changed)
