"""Reports over a large ledger: they take their time, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tenantd.config import BillingConfig
from tenantd.ledger.ledger import Ledger
from tests.attacks.kit import unharmed
from tests.attacks.neighbour import UnixConnection
from tests.support.daemon import Daemon

ROWS = 500_000
REPORTS = 6
QUICK_S = 10.0
"""Less than the reports that might be waited for take one after the other, and enough for a busy machine."""

FILL = """
    INSERT INTO requests (id, tenant, kind, model, state, created_micros, prompt_length_tokens, max_tokens,
        prompt_tokens, completion_tokens, engine_micros, first_token_micros, duration_micros, price_id, tenant_id,
        ended_micros)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
    SELECT 'req_' || i, 'old' || i % 5, 'chat', 'fake', 'stop', 1700000000000000 + i, 10, 10, 10, 10, 100,
        i * 7919 % 1000003, i * 104729 % 1000003, 1, 100 + i % 5, 1700000000000000 + i FROM n"""


def fill_ledger(state: Path) -> None:
    """Requests of one hour some years ago, so many that a report takes seconds: within an hour it reads each row."""
    state.mkdir(mode=0o700)
    ledger = Ledger.open(state / "ledger.db", BillingConfig(), lambda: 1_700_000_000_000_000)
    asyncio.run(ledger.close())
    with sqlite3.connect(state / "ledger.db") as conn:
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute(FILL, {"rows": ROWS})
    conn.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    fill_ledger(tmp_path / "state")
    with Daemon(tmp_path) as one:
        yield one


USAGE = "/admin/v1/usage?since=1700000000000000&until=1700003500000000"


@contextmanager
def reporting(daemon: Daemon, statuses: list[int]) -> Iterator[None]:
    """REPORTS clients, each of which asks for one report after the other. They hang up in the end."""
    is_over = threading.Event()
    connections = [UnixConnection(str(daemon.socket)) for _ in range(REPORTS)]

    def ask(connection: UnixConnection) -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", USAGE)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)

    clients = [threading.Thread(target=ask, args=(connection,)) for connection in connections]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        is_over.set()
        for connection in connections:
            connection.sock.shutdown(socket.SHUT_RDWR)
        for client, connection in zip(clients, connections, strict=True):
            client.join()
            connection.close()


def test_six_reports_delay_neither_requests_nor_administration_nor_a_revoked_key(daemon: Daemon) -> None:
    statuses: list[int] = []
    with reporting(daemon, statuses), unharmed(daemon) as watch:
        number = 0
        while watch.goes_on:
            number += 1
            began_s = time.monotonic()
            key = daemon.add_tenant(f"new{number}")
            headers = {"Authorization": f"Bearer {key}"}
            body = {"prompt": "x" * 5000, "max_tokens": 1}
            assert daemon.post("/v1/completions", body, headers=headers).status_code == 400  # over 4096 tokens
            assert daemon.post("/v1/completions", {"prompt": "x" * 1000}, headers=headers).status_code == 200
            keys = daemon.get(f"/admin/v1/tenants/new{number}/keys").json()["keys"]
            assert daemon.get("/admin/v1/requests?limit=5").status_code == 200
            assert daemon.request("DELETE", f"/admin/v1/keys/{keys[0]['id']}").status_code == 200
            assert daemon.post("/v1/completions", body, headers=headers).status_code == 401
            assert time.monotonic() - began_s < 3 * QUICK_S
    assert set(statuses) <= {200}


def test_a_report_ends_when_its_client_goes_and_when_the_daemon_stops(daemon: Daemon) -> None:
    with daemon.client(timeout_s=0.3) as client:
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout):
                client.get(USAGE)
    with daemon.client() as client:  # behind five that nobody waits for any more
        began_s = time.monotonic()
        assert client.get("/admin/v1/usage?since=0&until=5").status_code == 200
        assert time.monotonic() - began_s < QUICK_S
    with contextlib.closing(UnixConnection(str(daemon.socket))) as asking:
        asking.request("GET", USAGE)
        assert daemon.get("/healthz").status_code == 200  # it came after, so the report has begun
        began_s = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began_s < 2 * QUICK_S
        assert asking.getresponse().status == 503
