"""What systemd is told, and what it passes."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tenantd.systemd import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_each_message_is_one_datagram(tmp_path: Path, abstract: bool) -> None:
    address = f"@{tmp_path}/notify" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if abstract else address)
        sock.settimeout(5)
        notifier = Notifier(address)
        notifier.status("loading 40%")
        assert sock.recv(1000) == b"STATUS=loading 40%"
        notifier.ready("ready: tiny")
        assert sock.recv(1000) == b"READY=1\nSTATUS=ready: tiny"
        notifier.stopping()
        assert sock.recv(1000).startswith(b"STOPPING=1\n")


def test_without_the_variable_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready("x")
    assert not caplog.records


def test_a_socket_that_is_gone_is_logged_and_nothing_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier(str(tmp_path / "gone")).ready("x")
    assert "NOTIFY_SOCKET" in caplog.text


PASSED = """
import os, socket, sys
from tenantd.errors import ConfigError
from tenantd.systemd import passed_sockets
os.environ["LISTEN_PID"] = str(os.getpid()) if sys.argv[1] == "me" else "1"
try:
    found = passed_sockets(os.environ)
except ConfigError as e:
    print(e.message)
    sys.exit()
left = [name for name in os.environ if name.startswith("LISTEN_")]
print([(s.family.name, os.get_inheritable(s.fileno()), s.getblocking()) for s in found], left)
"""


def pass_on(*descriptors: int, names: str = "", to: str = "me") -> str:
    """What a program says that these are passed to, as systemd passes them."""
    moved = " ".join(f"{3 + number}<&{descriptor}" for number, descriptor in enumerate(descriptors))
    environment = {**os.environ, "LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": names}
    command = ["bash", "-c", f'exec "$@" {moved}', "bash", sys.executable, "-c", PASSED, to]
    return subprocess.run(
        command, env=environment, pass_fds=descriptors, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_sockets_are_taken_once_and_by_the_process_they_are_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        found = "[('AF_INET', False, False), ('AF_UNIX', False, False)] []"
        high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 20) for sock in (tcp, unix)]
        assert pass_on(*high, names="a:b") == found
        assert pass_on(*high, to="another") == "[] []"
        for descriptor in high:
            os.close(descriptor)


def test_what_is_no_listening_socket_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, (tmp_path / "file").open("w") as file:
        high = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 20) for one in (udp, file)]
        assert "passed dns, which does not listen for streams" in pass_on(high[0], names="dns")
        assert "passed no socket as descriptor 3" in pass_on(high[1])
        for descriptor in high:
            os.close(descriptor)
