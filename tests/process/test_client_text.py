"""What a client sends comes back to nobody's terminal as anything but text, and what is ours stays ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.raw import connect, read_answer
from tests.support.daemon import Daemon, wait_until
from tests.support.program import tenantctl

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
EVIL = "\x1b]0;owned\x07\x9b31m"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("text"), log={"level": "debug"}) as daemon:
        yield daemon


def test_escapes_of_a_client_reach_neither_ledger_nor_log_nor_terminal(daemon: Daemon) -> None:
    key = daemon.add_tenant("evil")
    headers = {"Authorization": f"Bearer {key}", "x-client-request-id": "a\x9b31mb".encode("latin-1")}
    for body in (
        {"prompt": "hi", "model": EVIL},
        {"prompt": "hi", EVIL: 1},
        {"prompt": "hi", "grammar": f"root ::= {EVIL}"},
        {"prompt": "hi", "stop": [EVIL], "max_tokens": 1},
        {"prompt": EVIL, "max_tokens": 1},
    ):
        answer = daemon.post("/v1/completions", body, headers=headers)
        assert not CONTROL.search(answer.headers.get("x-tenantd-ignored", ""))
        if answer.is_error:
            assert not CONTROL.search(answer.json()["error"]["message"])
    daemon.get("/v1/%1b%5d0;owned%07%0aforged", headers=headers)
    daemon.request("DELETE", "/admin/v1/keys/%1b%5b31m")
    wait_until(lambda: all(row["state"] != "running" for row in daemon.rows()), "the rows")
    assert not any(CONTROL.search(str(value)) for row in daemon.rows() for value in row.values())
    assert not CONTROL.search(daemon.log.read_text().replace("\n", ""))
    for arguments in (["requests"], ["requests", "--json"], ["status"], ["key", "revoke", EVIL]):
        shown = tenantctl(daemon, *arguments)
        assert not CONTROL.search((shown.stdout + shown.stderr).replace("\n", "")), arguments


def test_the_name_a_client_gives_its_request_is_shown_without_escapes(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 20_000}) as daemon:
        daemon.add_tenant("evil")
        running = daemon.stream("evil", max_tokens=1000, ignore_eos=True).begun()
        with connect(daemon) as sock:
            head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-tenant: evil\r\nx-client-request-id: a\x9b31mb\r\n"
            sock.sendall(head + b'content-length: 15\r\n\r\n{"prompt":"hi"}')
            found = wait_until(lambda: daemon.get("/v1/queue", headers={"X-Tenant": "evil"}).json()["waiting"], "it")
        assert found[0]["client_request_id"] == "a\ufffd31mb"
        daemon.post(f"/admin/v1/requests/{running.request_id}/cancel")


@pytest.mark.parametrize("host", [b"", b"host: x\r\n"])
def test_an_unknown_route_names_what_was_asked_and_nothing_of_ours(daemon: Daemon, host: bytes) -> None:
    version = b"1.1" if host else b"1.0"
    with connect(daemon) as sock:
        sock.sendall(b"GET /nowhere HTTP/" + version + b"\r\n" + host + b"\r\n")
        status, body = read_answer(sock)
    assert status == 404 and b"no such route: /nowhere" in body
    assert b".sock" not in body and str(daemon.folder).encode() not in body
