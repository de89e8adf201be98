"""The user's service as systemd runs it: with the socket it is given, watched, reloaded and stopped."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import tomli_w

from tenantctl.client import Client, url
from tests.process.test_network import PASS_ON

WATCHDOG_MICROS = 400_000


def unit_settings(text: str) -> dict[str, str]:
    """The last of each name."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_the_unit_serves_as_systemd_expects(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({"engine": {"backend": "fake"}}))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TENANTD_", "XDG_"))}
    clean["XDG_RUNTIME_DIR"], clean["XDG_STATE_HOME"] = str(tmp_path / "run"), str(tmp_path / "state")
    install = [sys.executable, "-m", "tenantctl", "service", "install", "--user", "--dry-run", "--config", str(config)]
    units = subprocess.run(install, env=clean, capture_output=True, text=True, check=True, timeout=120).stdout
    service = unit_settings(units)
    assert service["Type"] == "notify" and service["ExecReload"] == "/bin/kill -HUP $MAINPID"

    (tmp_path / "run" / "tenantd").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        unix.bind(service["ListenStream"])
        unix.listen()
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(120)
        environment = {**clean, **dict(each.split("=", 1) for each in shlex.split(service["Environment"]))}
        environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(WATCHDOG_MICROS)}
        arguments = shlex.split(service["ExecStart"])[-2:]
        command = [sys.executable, "-c", PASS_ON, str(unix.fileno()), "-m", "tenantd", *arguments]
        daemon = subprocess.Popen(command, env=environment, pass_fds=[unix.fileno()], stderr=subprocess.DEVNULL)
        try:
            heard(notify, lambda said: said.startswith("READY=1\n"))
            for _ in range(3):
                heard(notify, lambda said: said == "WATCHDOG=1")
            with Client(Path(service["ListenStream"])) as client:
                assert client.get(url("status"))["state_dir"] == str(tmp_path / "state" / "tenantd")
            config.write_text("broken")  # a reload that fails is over, too
            daemon.send_signal(signal.SIGHUP)
            heard(notify, lambda said: re.match(r"RELOADING=1\nMONOTONIC_USEC=\d+\n", said) is not None)
            heard(notify, lambda said: said.startswith("READY=1\n"))
            daemon.send_signal(signal.SIGTERM)
            heard(notify, lambda said: said.startswith("STOPPING=1\n"))
            assert daemon.wait(60) == 0
        finally:
            daemon.kill()
            daemon.wait()
        assert Path(service["ListenStream"]).exists(), "it is systemd's"


def heard(notify: socket.socket, is_it: Callable[[str], bool]) -> None:
    """Wait for a message."""
    while not is_it(notify.recv(4096).decode()):
        pass
