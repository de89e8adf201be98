"""Connections on TCP whose requests show no right key: they wait for their turns, and hold up nobody who has one."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tenantd.api import connection, connections, unpaid
from tests.api.conftest import Api, serve

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
WRONG = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer td_wrong\r\n\r\n"
NEVER_S = 1e6
MOST = 5


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Every address has one turn, and no other."""
    monkeypatch.setattr(unpaid, "BURST", 1)
    monkeypatch.setattr(unpaid, "INTERVAL_S", NEVER_S)
    monkeypatch.setattr(connection, "PATIENCE_S", NEVER_S)
    listener = {"address": "127.0.0.1:0", "max_connections_per_address": MOST}
    yield from serve(tmp_path, {"server": {"listen": [listener]}})


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def ask(api: Api, stack: ExitStack, said: bytes) -> socket.socket:
    sock = stack.enter_context(socket.create_connection(api.address(0), timeout=120))
    sock.sendall(said)
    return sock


def wait(api: Api, count: int) -> None:
    """Until that many requests wait for their turns."""
    api.wait_until(lambda: len(api.connections.unpaid) == count)


def models(api: Api) -> int:
    with httpx.Client(base_url=api.url(0), timeout=120, trust_env=False) as client:
        return client.get("/v1/models", headers={"authorization": "Bearer td_acme"}).status_code


def is_answered(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def test_strangers_wait_and_right_keys_of_the_same_address_do_not(api: Api, stack: ExitStack) -> None:
    assert ask(api, stack, HEALTH).recv(12) == b"HTTP/1.1 200"
    waiting = [ask(api, stack, said) for said in (HEALTH, WRONG)]
    wait(api, 2)
    assert [models(api) for _ in range(20)] == [200] * 20
    assert not any(map(is_answered, waiting))
    assert api.client.get("/healthz").status_code == 200, "on the Unix socket nobody waits"


def test_a_connection_that_has_shown_a_right_key_waits_if_it_shows_none(api: Api, stack: ExitStack) -> None:
    ask(api, stack, HEALTH).recv(12)
    right = WRONG.replace(b"td_wrong", b"td_acme")
    sock = ask(api, stack, right + HEALTH + right)
    assert sock.recv(12) == b"HTTP/1.1 200"
    wait(api, 1)


def test_who_waits_is_closed_to_make_room(api: Api, stack: ExitStack) -> None:
    first, *_ = [ask(api, stack, HEALTH) for _ in range(MOST)]
    wait(api, MOST - 1)
    assert first.recv(12) == b"HTTP/1.1 200"
    for _ in range(2 * MOST):
        assert models(api) == 200
    api.wait_until(lambda: len(api.connections.unpaid) < MOST)


def test_who_waits_too_long_is_told_why_and_closed(api: Api, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 0.2)
    ask(api, stack, HEALTH).recv(12)
    sock = ask(api, stack, HEALTH)
    answer = b""
    while data := sock.recv(1 << 16):
        answer += data
    assert answer.startswith(b"HTTP/1.1 429") and b"too_many_strangers" in answer and b"retry-after: 10" in answer
    wait(api, 0)


def test_what_waits_has_bounded_memory(api: Api, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(api, stack, HEALTH).recv(12)
    monkeypatch.setattr(connections, "MAX_PARTIAL_HEADS_BYTES", 50_000)
    oldest = ask(api, stack, HEALTH[:-2] + b"x: " + b"y" * 30_000 + b"\r\n\r\n")
    wait(api, 1)
    ask(api, stack, HEALTH[:-2] + b"x: " + b"y" * 30_000 + b"\r\n\r\n")
    with suppress(ConnectionResetError):
        assert oldest.recv(1) == b""
    wait(api, 1)


def test_requests_of_one_connection_are_answered_in_their_order(
    api: Api, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpaid, "INTERVAL_S", 0.01)
    paths = [f"/p{number}" for number in range(12)]
    said = b"".join(HEALTH.replace(b"/healthz", path.encode()) for path in paths)
    sock = ask(api, stack, said)
    answers = b""
    while answers.count(b"no such route") < len(paths):
        data = sock.recv(1 << 16)
        assert data, answers
        answers += data
    places = [answers.index(f"no such route: {path}".encode()) for path in paths[2:]]
    assert places == sorted(places)
