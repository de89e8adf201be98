"""What /metrics holds on to, and what strangers can make the log hold."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until


def metric(daemon: Daemon, name: str) -> float:
    [line] = [line for line in daemon.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def test_nothing_is_left_of_a_tenant_that_was_removed(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 10_000}) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("globex")
        for tenant in ("acme", "globex"):
            assert daemon.complete(tenant, max_tokens=2).status_code == 200
            assert daemon.complete(tenant, max_tokens=0).status_code == 400
        running = daemon.stream("acme", max_tokens=4000, ignore_eos=True).begun(2)
        assert 'tenant="acme"' in daemon.get("/metrics").text
        assert daemon.request("DELETE", "/admin/v1/tenants/acme").status_code == 200
        assert running.join().error is not None
        wait_until(lambda: [row["state"] for row in daemon.rows()][-1] == "cancelled", "its settlement")
        found = daemon.get("/metrics").text
        assert 'tenant="acme"' not in found
        assert 'tenantd_requests_total{state="length",tenant="globex"} 1.0' in found


GARBAGE = {
    "not HTTP": b"\x16\x03\x01 hello\r\n\r\n",
    "an upgrade": b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_what_is_not_http_is_counted_and_does_not_fill_the_log(tmp_path: Path, garbage: bytes) -> None:
    with Daemon(tmp_path) as daemon:
        before = daemon.log.read_text()
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(120)
                client.connect(str(daemon.socket))
                client.sendall(garbage)
                assert client.recv(4096).startswith(b"HTTP/1.1 ")
        expected = 20 if garbage is GARBAGE["not HTTP"] else 0
        assert metric(daemon, "tenantd_malformed_requests_total") == expected
        assert daemon.stop() == 0
        new = daemon.log.read_text().removeprefix(before)
    assert "WARNING" not in new and len(new.splitlines()) <= 2, new
