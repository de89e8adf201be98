"""Clients that go away, stall, or send too much at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tenantd.domain import FinishReason
from tests.api.conftest import Api


@contextmanager
def raw_client(api: Api) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(120)
        sock.connect(str(api.path))
        yield sock


def request(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer td_acme\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def ended(api: Api) -> list[FinishReason | None]:
    return [stream.finish_reason for stream in api.service.streams]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_disconnects_stops_its_generation(api: Api, stream: bool, n: int) -> None:
    api.service.hold_after = 3
    with raw_client(api) as sock:
        sock.sendall(request({"prompt": "Hi", "stream": stream, "n": n}))
        api.wait_until(lambda: [len(s.generated) for s in api.service.streams] == [3] * n)
        assert ended(api) == [None] * n
    api.wait_until(lambda: ended(api) == [FinishReason.DISCONNECTED] * n)


def test_a_client_that_disconnects_before_the_first_token_stops_its_generation(api: Api) -> None:
    api.service.hold_after = 0
    with raw_client(api) as sock:
        sock.sendall(request({"prompt": "Hi", "stream": True}))
        api.wait_until(lambda: len(api.service.streams) == 1)
    api.wait_until(lambda: ended(api) == [FinishReason.DISCONNECTED])


def test_a_client_that_disconnects_while_it_waits_for_its_tenants_limits_waits_no_longer(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.service.hold_submit = True
    with raw_client(api) as sock:
        sock.sendall(request({"prompt": "Hi"}))
        api.wait_until(lambda: api.service.held == 1)
    api.wait_until(lambda: api.service.held == 0)
    assert not api.service.streams and "Traceback" not in caplog.text


def test_a_disconnect_after_a_large_body_is_noticed(api: Api) -> None:
    """A body over the server's buffer pauses reading; only reading shows that the client has gone."""
    api.service.hold_after = 3
    with raw_client(api) as sock:
        sock.sendall(request({"prompt": "Hi", "stream": True, "user": "x" * 1_000_000}))
        api.wait_until(lambda: len(api.service.streams) == 1)
    api.wait_until(lambda: ended(api) == [FinishReason.DISCONNECTED])


def test_a_disconnect_in_the_middle_of_the_body_starts_nothing(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with raw_client(api) as sock:
        sock.sendall(request({"prompt": "Hi"})[:-3])
    assert api.completion(prompt="Hi").status_code == 200
    assert len(api.service.streams) == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("settings", [{"server": {"write_timeout_s": 0.3}}])
@pytest.mark.parametrize("n", [1, 2])
def test_a_client_that_stops_reading_is_cut_off(api: Api, n: int, caplog: pytest.LogCaptureFixture) -> None:
    api.service.answer = "x" * 30_000
    api.service.hold_after = 20_000  # with their logprobs more than all buffers hold, in however many events they go
    with raw_client(api) as sock:
        sock.sendall(request({"prompt": "Hi", "stream": True, "max_tokens": 100_000, "n": n, "logprobs": 2}))
        api.wait_until(lambda: ended(api) == [FinishReason.DISCONNECTED] * n)
        received = b""
        while data := sock.recv(1 << 20):
            received += data
        assert b"[DONE]" not in received
    assert "Traceback" not in caplog.text
    api.service.hold_after = None
    assert api.completion(prompt="Hi").status_code == 200


def test_a_slow_reader_gets_everything(api: Api) -> None:
    api.service.answer = "0123456789" * 3000
    with raw_client(api) as sock:
        sock.sendall(request({"prompt": "Hi", "stream": True, "max_tokens": 100_000}))
        api.wait_until(lambda: ended(api) == [FinishReason.STOP])  # all of it waits for the reader
        received = b""
        while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            data = sock.recv(65536)
            assert data
            received += data
    assert received.count(b'"text":') == 30_000 + 1


def test_requests_sent_at_once_on_one_connection_are_answered_in_turn(api: Api) -> None:
    with raw_client(api) as sock:
        sock.sendall(request({"prompt": "Hi", "stream": True}) + request({"prompt": "Hi"}))
        received = b""
        while received.count(b'"usage"') < 1:
            received += sock.recv(65536)
    assert received.index(b"[DONE]") < received.index(b'"usage"')
    assert len(api.service.streams) == 2


def test_a_stream_survives_while_others_leave(api: Api) -> None:
    api.service.hold_after = 3
    with raw_client(api) as stays:
        stays.sendall(request({"prompt": "Hi", "stream": True}))
        api.wait_until(lambda: len(api.service.streams) == 1)
        with raw_client(api) as leaves:
            leaves.sendall(request({"prompt": "Hi", "stream": True}))
            api.wait_until(lambda: len(api.service.streams) == 2)
        api.wait_until(lambda: ended(api) == [None, FinishReason.DISCONNECTED])
        api.loop.call(api.service.release.set)
        received = b""
        while b"[DONE]" not in received:
            received += stays.recv(65536)
    assert ended(api)[0] is FinishReason.STOP
