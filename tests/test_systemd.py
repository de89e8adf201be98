"""What systemd is told."""

from __future__ import annotations

import socket
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
