"""Keys that were revoked, and requests that would rather be an administrator's."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.attacks.kit import unharmed
from tests.attacks.raw import connect, error_code, head, read_answer
from tests.support.daemon import Daemon, wait_until

LONG = {"prompt": "hello", "max_tokens": 100_000, "ignore_eos": True}
AT_ONCE_S = 10.0
"""A fraction of what such a request takes, and enough for a busy machine."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = {"engine": {"context_tokens": 200_000, "fake_step_micros": 2000}}
    with Daemon(tmp_path_factory.mktemp("identity"), **settings) as daemon:
        yield daemon


def new_key(daemon: Daemon, tenant: str) -> tuple[str, str]:
    """Id and secret."""
    if tenant not in [found["name"] for found in daemon.get("/admin/v1/tenants").json()["tenants"]]:
        daemon.add_tenant(tenant)
    made = daemon.post(f"/admin/v1/tenants/{tenant}/keys", {"label": ""}).json()
    return made["key"]["id"], made["secret"]


def revoke(daemon: Daemon, key_id: str) -> None:
    assert daemon.request("DELETE", f"/admin/v1/keys/{key_id}").status_code == 200


class Running:
    """A request with a key, read in a thread."""

    def __init__(self, daemon: Daemon, key: str, *, stream: bool) -> None:
        self.status = 0
        self.text = ""
        self.ended_s = 0.0
        self._thread = threading.Thread(target=self._run, args=(daemon, key, stream))
        self._thread.start()

    def _run(self, daemon: Daemon, key: str, stream: bool) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        with (
            daemon.client(120) as client,
            client.stream("POST", "/v1/completions", json={**LONG, "stream": stream}, headers=headers) as answer,
        ):
            self.status = answer.status_code
            for text in answer.iter_text():
                self.text += text
        self.ended_s = time.monotonic()

    @property
    def code(self) -> str:
        """Of the last event, or the whole answer."""
        self._thread.join(300)
        return str(json.loads(self.text.strip().split("\n")[-1].removeprefix("data: "))["error"]["code"])


def row(daemon: Daemon, tenant: str) -> dict[str, object]:
    return [found for found in daemon.rows() if found["tenant"] == tenant][-1]


def test_a_key_revoked_while_its_body_comes_is_refused(daemon: Daemon) -> None:
    key_id, key = new_key(daemon, "late")
    body = json.dumps({"prompt": "hello", "max_tokens": 2}).encode()
    with connect(daemon) as sock:
        sock.sendall(head(key, len(body)) + body[:5])
        wait_until(lambda: daemon.get("/healthz").status_code == 200, "the head to be read")
        revoke(daemon, key_id)
        sock.sendall(body[5:])
        status, answer = read_answer(sock)
    assert (status, error_code(answer)) == (401, "key_revoked")
    assert not [found for found in daemon.rows() if found["tenant"] == "late"]


def test_a_key_that_administers_and_is_revoked_while_its_body_comes_changes_nothing(daemon: Daemon) -> None:
    made = daemon.post("/admin/v1/keys", {}).json()
    body = json.dumps({"name": "too-late"}).encode()
    with connect(daemon) as sock:
        sock.sendall(head(made["secret"], len(body), "/admin/v1/tenants") + body[:5])
        wait_until(lambda: daemon.get("/healthz").status_code == 200, "the head to be read")
        revoke(daemon, made["key"]["id"])
        sock.sendall(body[5:])
        status, answer = read_answer(sock)
    assert (status, error_code(answer)) == (401, "key_revoked")
    assert "too-late" not in [found["name"] for found in daemon.get("/admin/v1/tenants").json()["tenants"]]


@pytest.mark.parametrize("stream", [True, False])
def test_a_revoked_key_ends_what_runs_with_it_and_bills_what_came(daemon: Daemon, stream: bool) -> None:
    tenant = f"running-{stream}".lower()
    key_id, key = new_key(daemon, tenant)
    running = Running(daemon, key, stream=stream)
    wait_until(lambda: [t for t in daemon.status()["tenants"] if t["name"] == tenant and t["running"]], "it to run")
    revoked_s = time.monotonic()
    revoke(daemon, key_id)
    assert running.code == "key_revoked"
    assert running.status == (200 if stream else 401)
    assert running.ended_s - revoked_s < AT_ONCE_S
    wait_until(lambda: row(daemon, tenant)["state"] != "running", "its row")
    found = row(daemon, tenant)
    assert found["state"] == "cancelled"
    assert found["completion_tokens"] and found["input_nanos"], "what came is billed"


def test_another_key_of_the_same_tenant_goes_on(daemon: Daemon) -> None:
    revoked, first = new_key(daemon, "two-keys")
    kept, second = new_key(daemon, "two-keys")
    runs_out, goes_on = Running(daemon, first, stream=True), Running(daemon, second, stream=True)
    wait_until(lambda: runs_out.text and goes_on.text, "both to run")
    revoke(daemon, revoked)
    assert runs_out.code == "key_revoked"
    length = len(goes_on.text)
    wait_until(lambda: len(goes_on.text) > length, "the other one to go on")
    revoke(daemon, kept)
    assert goes_on.code == "key_revoked"


def test_a_request_that_waits_for_its_tenants_limits_ends_with_its_key(daemon: Daemon) -> None:
    key_id, key = new_key(daemon, "waits")
    limits = {"requests_per_minute": 1, "on_limit": "queue", "max_wait_s": 60}
    assert daemon.request("PATCH", "/admin/v1/tenants/waits", json={"limits": limits}).status_code == 200
    assert daemon.complete("waits", max_tokens=1).status_code == 200
    waiting = Running(daemon, key, stream=False)
    wait_until(lambda: daemon.status()["waiting"] == 1, "it to wait")
    revoke(daemon, key_id)
    assert (waiting.code, waiting.status) == ("key_revoked", 401)


def test_nobody_suffers_while_keys_are_used_after_their_revocation(daemon: Daemon) -> None:
    with unharmed(daemon) as watch:
        while watch.goes_on:
            key_id, key = new_key(daemon, "churn")
            runs = [Running(daemon, key, stream=stream) for stream in (True, True, False)]
            wait_until(lambda runs=runs: runs[0].text or runs[0].status > 200, "the first to run")  # type: ignore[misc]
            revoke(daemon, key_id)
            assert {run.code for run in runs} <= {"key_revoked", "invalid_api_key"}
            headers = {"Authorization": f"Bearer {key}"}
            assert daemon.post("/v1/completions", LONG, headers=headers).status_code == 401


def ask_raw(daemon: Daemon, request: str) -> int:
    """The status. Clients that are libraries send no such headers."""
    with connect(daemon) as sock:
        sock.sendall(request.encode())
        return read_answer(sock)[0]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/queue", "/admin/v1/status", "/metrics"])
def test_who_says_twice_who_asks_is_refused(daemon: Daemon, path: str) -> None:
    _, key = new_key(daemon, "twice")
    for line in (f"authorization: Bearer {key}\r\n", "x-tenant: twice\r\n"):
        assert ask_raw(daemon, f"GET {path} HTTP/1.1\r\nhost: x\r\n{line * 2}\r\n") == 400
    assert ask_raw(daemon, f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n") == 200


ADMIN_PATHS = ["/admin", "/admin/v1/status", "/admin/v1/tenants", "/metrics"]


@pytest.mark.parametrize("path", ADMIN_PATHS)
def test_whoever_shows_a_key_does_not_administer_whatever_its_user(daemon: Daemon, path: str) -> None:
    """The daemon's own user sends this, as a bridge that it runs would."""
    _, key = new_key(daemon, "keyed")
    assert daemon.get(path).status_code == 200
    for value, status in ((f"Bearer {key}", 403), ("Bearer ", 401), ("Bearer", 401), ("", 401), ("Basic eDp5", 401)):
        assert ask_raw(daemon, f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {value}\r\n\r\n") == status, value


@pytest.mark.parametrize("value", ["Bearer ", "Bearer", "bearer", "", " "])
def test_an_empty_key_is_refused_and_not_taken_for_none(daemon: Daemon, value: str) -> None:
    new_key(daemon, "empty")
    uids = {"uids": [os.geteuid()]}
    assert daemon.request("PATCH", "/admin/v1/tenants/empty", json=uids).status_code == 200
    body = '{"prompt": "Hi", "max_tokens": 1}'
    line = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-tenant: empty\r\ncontent-length: {len(body)}\r\n"
    assert ask_raw(daemon, f"{line}authorization:{value}\r\n\r\n{body}") == 401
    assert ask_raw(daemon, f"{line}\r\n{body}") == 200
    assert daemon.complete("empty", max_tokens=1).status_code == 200


@pytest.mark.parametrize("path", ADMIN_PATHS)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://tenantd", ""])
def test_a_page_in_a_browser_does_not_administer(daemon: Daemon, path: str, origin: str) -> None:
    answer = daemon.get(path, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_a_page_in_a_browser_may_use_a_key(daemon: Daemon) -> None:
    _, key = new_key(daemon, "page")
    headers = {"Origin": "http://app.example", "Authorization": f"Bearer {key}"}
    answer: httpx.Response = daemon.post("/v1/completions", {"prompt": "Hi", "max_tokens": 1}, headers=headers)
    assert answer.status_code == 200
