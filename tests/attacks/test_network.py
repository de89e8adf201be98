"""Clients on TCP that are slow, rude or broken: everybody else is served as before."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.attacks.kit import unharmed
from tests.support.certificates import Authority
from tests.support.daemon import Daemon
from tests.support.network import hostile, urls

ROOT = Path(__file__).parent.parent.parent
QUICK = {"head_timeout_s": 2, "body_timeout_s": 3, "idle_timeout_s": 60, "write_timeout_s": 5}


@pytest.mark.parametrize("speaks", ["http", "https"])
def test_hundred_clients_that_misbehave_harm_nobody(tmp_path: Path, speaks: str) -> None:
    authority = Authority(tmp_path)
    listener = {"address": "127.0.0.1:0", **QUICK, **(authority.issue() if speaks == "https" else {})}
    engine = {"slots": 8, "fake_step_micros": 2000, "context_tokens": 4096}
    with Daemon(tmp_path, server={"listen": [listener]}, engine=engine) as daemon:
        theirs, own = daemon.add_tenant("rude"), daemon.add_tenant("acme")
        [url] = urls(daemon)
        ca = authority.file if speaks == "https" else None
        with (
            unharmed(daemon) as watch,
            hostile(url, 100, theirs, ca),
            httpx.Client(base_url=url, verify=authority.trust, timeout=120, trust_env=False) as client,
        ):
            while watch.goes_on:
                headers = {"authorization": f"Bearer {own}"}
                answer = client.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2}, headers=headers)
                assert answer.status_code == 200
        assert "Traceback" not in daemon.log.read_text()
        others = [line for line in daemon.log.read_text().splitlines() if " INFO request " not in line]
        assert len(others) < 50, "nobody fills the log"


def test_connections_of_an_address_leave_room_for_the_socket_and_other_addresses(tmp_path: Path) -> None:
    listener = {"address": "127.0.0.1:0", "max_connections": 60, "max_connections_per_address": 40}
    with Daemon(tmp_path, server={"listen": [listener]}) as daemon:
        key = daemon.add_tenant("acme")
        [url] = urls(daemon)
        host, _, port = url.removeprefix("http://").rpartition(":")
        with unharmed(daemon) as watch:
            is_over = threading.Event()

            def flood() -> int:
                rounds = 0
                while not is_over.is_set():
                    socks = [socket.create_connection((host, int(port)), timeout=60) for _ in range(50)]
                    for sock in socks:
                        sock.close()
                    rounds += 1
                return rounds

            transport = httpx.HTTPTransport(local_address="127.0.0.2", trust_env=False)
            with ThreadPoolExecutor(1) as pool:
                flooding = pool.submit(flood)
                try:
                    with httpx.Client(base_url=url, transport=transport, timeout=120) as client:
                        while watch.goes_on:
                            answer = client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
                            assert answer.status_code == 200
                finally:
                    is_over.set()
                assert flooding.result() > 0


def test_the_measurement_of_two_hundred_clients_runs(tmp_path: Path) -> None:
    """In small: whether it holds is measured on a machine that does nothing else."""
    found = tmp_path / "found.json"
    command = [sys.executable, "benchmarks/network.py", "--clients", "16", "--seconds", "2", "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(found.read_text())
    assert result["alone"]["clients"] == result["beside"]["clients"] == 8
    assert result["alone"]["failed"] == result["beside"]["failed"] == 0
    assert result["beside"]["requests"] > 8 and result["ratio"] > 0
