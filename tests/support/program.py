"""`tenantctl` as a user runs it: its own process, in front of a real daemon; also as another user of the machine."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from tests.support.daemon import Daemon

NOBODY = 65_534
FAR_UID = 4_000_000_000  # nobody's
PR_CAPBSET_DROP = 24
POWER_OVER_FILES = (1, 2, 3)  # capability.h: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
_STRANGER = """
import contextlib, io, os, sys
from pathlib import Path
from tenantctl.client import Client
from tenantctl.main import app, main
with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    # Whatever is loaded late is loaded now: the interpreter may be where another user cannot look.
    for arguments in (["--help"], ["--socket", "/nowhere/s", "status"], ["status", "--nonsense"]):
        with contextlib.suppress(SystemExit):
            app(arguments)
    with contextlib.suppress(Exception), Client(Path(os.environ["TENANTD_SOCKET"])) as client:
        client.get("/healthz")
uid = int(os.environ["STRANGER_UID"])
if uid != os.geteuid():
    os.setgroups([int(gid) for gid in os.environ["STRANGER_GIDS"].split()])
    os.setgid(uid)
    os.setuid(uid)
main()
"""


def tenantctl(
    where: Daemon | Path, *arguments: str, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. `where` is the daemon or its socket."""
    return _run([sys.executable, "-m", "tenantctl.main", *arguments], where, stdin, environment)


def stranger_uid() -> int:
    """A user who is not the daemon's: root can become one, anybody else is one to a daemon that was `estrange`d."""
    return NOBODY if os.geteuid() == 0 else os.geteuid()


def as_stranger(daemon: Daemon, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`tenantctl` of a user who does not administer."""
    return _run([sys.executable, "-c", _STRANGER, *arguments], daemon, b"", environment)


def estrange(daemon: Daemon) -> None:
    """From now on `stranger_uid()` is a stranger to this daemon. Without root nobody can become another user, so there
    it is started again and made to believe that it is one itself."""
    if os.geteuid() != 0:
        (daemon.folder / "sitecustomize.py").write_text(f"import os\nos.geteuid = lambda: {FAR_UID}\n")
        daemon.stop()
        daemon.start(PYTHONPATH=str(daemon.folder))


def show_to_own_user(daemon: Daemon) -> None:
    """From its next start on, /proc shows a daemon's descriptors and environment to its own user, who is not root but
    runs the tests. Root sees them in any case."""
    if os.geteuid() != 0:
        hidden = "import tenantd.process_limits\ntenantd.process_limits.hide_memory = lambda: None\n"
        (daemon.folder / "sitecustomize.py").write_text(hidden)
        daemon.environment["PYTHONPATH"] = str(daemon.folder)


def without_power_over_files() -> None:
    """Root obeys permissions like everybody else in what it execs from here; anybody else does anyway."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in POWER_OVER_FILES:
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "PR_CAPBSET_DROP")


def command_environment(where: Daemon | Path, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Nothing of the user's own is found."""
    socket = where.socket if isinstance(where, Daemon) else where
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TENANTD_", "XDG_"))}
    own = {"TENANTD_SOCKET": str(socket), "TENANTD_CONFIG": str(socket.parent / "no-config.toml")}
    return {**clean, **own, "STRANGER_UID": str(stranger_uid()), "STRANGER_GIDS": "", **(environment or {})}


def _run(
    command: list[str], where: Daemon | Path, stdin: bytes, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        timeout=300,
        env=command_environment(where, environment),
        check=False,
    )
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
