"""Answers that are given again, of a real daemon: within which limits, and to whom."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.process.test_idempotency import SLOW, URL, body, send
from tests.support.daemon import Daemon, wait_until


def first(daemon: Daemon, content: bytes, tenant: str = "acme") -> None:
    """The answer that is given again from now on."""
    answer = send(daemon, content, tenant=tenant)
    assert answer.status_code == 200
    name = answer.headers["x-request-id"]
    wait_until(lambda: [row["state"] for row in daemon.rows() if row["id"] == name] == ["length"], "a settled row")


def again(daemon: Daemon, content: bytes) -> tuple[int, str | None]:
    answer = send(daemon, content)
    if answer.status_code == 200:
        return 200, answer.headers["idempotent-replayed"]
    return answer.status_code, answer.json()["error"]["code"]


def test_each_counts_as_a_request_and_takes_no_tokens(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        for on_limit in ("reject", "queue"):
            limits = {"requests_per_minute": 3, "tokens_per_minute": 60, "on_limit": on_limit}
            daemon.add_tenant(name := f"acme-{on_limit}", limits=limits)
            content = body(max_tokens=50)
            first(daemon, content, tenant=name)
            answers = [send(daemon, content, tenant=name) for _ in range(3)]
            assert [one.headers.get("idempotent-replayed") for one in answers] == ["true", "true", None]
            assert answers[2].status_code == 429
            assert answers[2].json()["error"]["code"] == "requests_per_minute_exceeded"
            assert answers[2].headers["x-ratelimit-remaining-requests"] == "0"
            assert 0 < int(answers[2].headers["retry-after-ms"]) <= 60_100
        assert len(daemon.rows()) == 2
        metrics = daemon.request("GET", "/metrics").text.splitlines()
        for name in ("acme-reject", "acme-queue"):
            assert f'tenantd_repeated_answers_total{{tenant="{name}"}} 2.0' in metrics


def test_a_tenant_that_may_not_run_requests_is_given_none(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        first(daemon, body())
        daemon.post("/admin/v1/tenants/acme/suspend").raise_for_status()
        assert again(daemon, body()) == (403, "tenant_suspended")
        daemon.post("/admin/v1/tenants/acme/resume").raise_for_status()
        daemon.request("PATCH", "/admin/v1/tenants/acme", json={"limits": {"requests_per_minute": 0}})
        assert again(daemon, body()) == (403, "forbidden")
        daemon.request("PATCH", "/admin/v1/tenants/acme", json={"limits": {"requests_per_minute": 5}})
        assert again(daemon, body()) == (200, "true")


def test_a_tenant_gets_two_at_a_time_and_delays_no_other(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={**SLOW, "fake_step_micros": 300, "context_tokens": 8192}) as daemon:
        for name in ("acme", "globex"):
            daemon.add_tenant(name)
        large = body(max_tokens=4000, stream=True, logprobs=5)  # more than a socket's buffers hold
        first(daemon, large)
        assert send(daemon, body(), tenant="globex").status_code == 200
        readers = [slow_reader(daemon, large) for _ in range(2)]
        refused = send(daemon, large)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_repeats")
        assert refused.headers["retry-after"] == "1"
        assert send(daemon, body(), tenant="globex").headers["idempotent-replayed"] == "true"
        assert daemon.complete("acme", max_tokens=2).status_code == 200
        for reader in readers:
            reader.close()
        assert wait_until(lambda: (found := again(daemon, large))[0] == 200 and found, "a place") == (200, "true")


def test_a_large_body_is_told_apart_like_a_small_one(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"context_tokens": 32_768}) as daemon:
        daemon.add_tenant("acme")
        first(daemon, body(prompt="x" * 20_000))
        assert again(daemon, body(prompt="x" * 20_000)) == (200, "true")
        assert again(daemon, body(prompt="x" * 19_999 + "y")) == (409, "idempotency_key_reused")


def slow_reader(daemon: Daemon, content: bytes) -> socket.socket:
    """It has read the beginning of a large answer that is given again, and reads nothing more."""
    reader = socket.socket(socket.AF_UNIX)
    reader.settimeout(300)
    reader.connect(str(daemon.socket))
    head = "host: x\r\nx-tenant: acme\r\nidempotency-key: k\r\ncontent-type: application/json\r\ncontent-length"
    reader.sendall(f"POST {URL} HTTP/1.1\r\n{head}: {len(content)}\r\n\r\n".encode() + content)
    assert reader.recv(15) == b"HTTP/1.1 200 OK"
    return reader
