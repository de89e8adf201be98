"""What a real daemon announces, what it must not, and that nobody who listens harms it."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.raw import connect, error_code, head, read_answer
from tests.support.daemon import Daemon, wait_until
from tests.support.hearing.record import HeardDaemon

CANARY = "canary-5e1f"
KINDS = {"admitted", "started", "first_token", "settled", "cleaned_up"}


def test_a_request_is_heard_of_from_its_admission_until_nothing_is_left_of_it(tmp_path: Path) -> None:
    with HeardDaemon(tmp_path) as daemon:
        key = daemon.add_tenant("acme")
        by_key = {"authorization": f"Bearer {key}"}
        answer = daemon.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, headers=by_key)
        assert answer.status_code == 200
        wait_until(lambda: daemon.heard("cleaned_up"), "its last event")
        of_it = [event for event in daemon.heard() if event.get("request_id") == answer.headers["x-request-id"]]
        assert [event["event"] for event in of_it] == ["admitted", "started", "first_token", "settled", "cleaned_up"]
        admitted, settled = of_it[0], of_it[3]
        assert (admitted["path"], admitted["tenant"]) == ("chat", "acme")
        assert admitted["key_id"] and key not in str(of_it)
        assert admitted["uid"] == os.geteuid() and admitted["tenant_id"] == settled["tenant_id"] is not None
        assert settled["usage"]["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
        assert [event["at_micros"] for event in of_it] == sorted(event["at_micros"] for event in of_it)
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        wait_until(lambda: len(daemon.heard("engine_started")) == 2, "another engine")
        [lost] = daemon.heard("engine_lost")
        assert (lost["reason"], lost["status"]) == ("signal", -9)
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: [e for e in daemon.heard("administered") if e["action"] == "reloaded"], "the reload")
        assert daemon.stop() == 0


def send_canaries(daemon: Daemon, key: str) -> list[int]:
    """In every place where a client can write something; the statuses of the answers."""
    by_key = {"authorization": f"Bearer {key}", "x-client-request-id": CANARY}
    as_tenant = {"x-tenant": "acme"}
    schema = {"type": "object", "properties": {CANARY: {"const": CANARY}}}
    prompt: dict[str, Any] = {"prompt": CANARY, "max_tokens": 4}
    message = [{"role": "system", "content": CANARY}, {"role": "user", "content": CANARY, "name": CANARY}]
    bodies: list[tuple[str, Any]] = [
        ("/v1/completions", {**prompt, "stop": [CANARY], "user": CANARY}),
        ("/v1/completions", {**prompt, "stream": True}),
        ("/v1/completions", {**prompt, "grammar": f'root ::= "{CANARY}"'}),
        ("/v1/completions", {**prompt, "grammar": f"root ::= {CANARY}"}),
        ("/v1/completions", {**prompt, "json_schema": schema}),
        ("/v1/completions", {**prompt, "model": CANARY}),
        ("/v1/completions", {**prompt, CANARY: CANARY}),
        ("/v1/completions", {**prompt, "max_tokens": CANARY}),
        ("/v1/completions", CANARY),
        ("/v1/chat/completions", {"messages": message, "max_tokens": 4}),
        ("/v1/chat/completions", {"messages": message, "max_tokens": 4, "chat_template_kwargs": {CANARY: CANARY}}),
        ("/v1/chat/completions", {"messages": [{"role": CANARY, "content": CANARY}]}),
        (f"/{CANARY}", {}),
        (f"/v1/completions/{CANARY}", {}),
        ("/admin/v1/tenants", {"name": CANARY.upper()}),
        (f"/admin/v1/tenants/{CANARY}/suspend", {}),
        ("/admin/v1/tenants/acme/keys", {"label": CANARY}),
        (f"/admin/v1/requests/{CANARY}/cancel", {}),
    ]
    statuses = [
        daemon.post(path, body, headers=headers).status_code for path, body in bodies for headers in (by_key, as_tenant)
    ]
    for headers in ({"authorization": f"Bearer {CANARY}"}, {"authorization": CANARY}, {"x-tenant": CANARY}):
        statuses.append(daemon.post("/v1/completions", prompt, headers=headers).status_code)
        statuses.append(daemon.get(f"/v1/models/{CANARY}", headers=headers).status_code)
        statuses.append(daemon.get("/admin/v1/usage", params={"tenant": CANARY}, headers=headers).status_code)
    statuses.append(daemon.request("POST", "/v1/completions", content=CANARY.encode(), headers=by_key).status_code)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.socket))
        sock.sendall(f"{CANARY} {CANARY}\r\n\r\n".encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 400")
    return statuses


def test_no_event_holds_anything_that_a_client_has_written(tmp_path: Path) -> None:
    """An engine that crashes while it has the prompt included."""
    with HeardDaemon(tmp_path, engine={"fake_step_micros": 2000}) as daemon:
        key = daemon.add_tenant("acme")
        assert {200, 400, 401, 403, 404} <= set(send_canaries(daemon, key))
        running = daemon.stream("acme", CANARY, max_tokens=300, ignore_eos=True).begun(2)
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        assert running.join().done
        assert daemon.stop() == 0
        heard = daemon.events_file.read_text()
        assert CANARY not in heard.lower() and CANARY[7:] not in heard.lower()
        kinds = {event["event"] for event in daemon.heard()}
        assert kinds >= KINDS | {"refused", "engine_started", "engine_lost"}
        refused = daemon.heard("refused")
        assert {event["path"] for event in refused} == {
            "completion", "chat", "models", "admin", "other", "none",
        }  # fmt: skip
        assert {event["tenant"] for event in refused} == {None, "acme"}
        admitted = {event["request_id"] for event in daemon.heard("admitted")}
        assert admitted == {event["request_id"] for event in daemon.heard("cleaned_up")}, "what began has ended"


def refusals(daemon: Daemon) -> dict[tuple[str, str], float]:
    """By cause and tenant."""
    found = {}
    for line in daemon.get("/metrics").text.splitlines():
        if line.startswith("tenantd_refusals_total{"):
            labels, count = line.removeprefix("tenantd_refusals_total").rsplit(" ", 1)
            values = dict(part.split("=") for part in labels.strip("{}").split(","))
            found[values["cause"].strip('"'), values["tenant"].strip('"')] = float(count)
    return found


def test_every_refusal_is_counted_with_its_cause_and_strangers_add_none(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "server": {"max_body_bytes": 65536, "head_timeout_s": 3, "max_connections_per_key": 1},
        "engine": {"fake_step_micros": 20_000},
    }
    with Daemon(tmp_path, **settings) as daemon:
        key = daemon.add_tenant("acme")
        daemon.add_tenant("slow", limits={"requests_per_minute": 1})
        daemon.add_tenant("closed")
        daemon.post("/admin/v1/tenants/closed/suspend")
        by_key = {"authorization": f"Bearer {key}"}
        assert refusals(daemon) == {}

        def ask(**headers: str) -> int:
            return daemon.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, headers=headers).status_code

        assert daemon.complete("acme", temperature="warm").status_code == 400
        assert daemon.complete("acme", model="another").status_code == 404
        assert daemon.complete("acme", "x" * 70_000).status_code == 413
        assert ask(authorization="Bearer td_unknown") == 401
        assert ask(**{"x-tenant": "nobody"}) == 404
        assert daemon.get("/admin/v1/status", headers=by_key).status_code == 403
        assert daemon.get("/nowhere").status_code == 404
        assert daemon.request("DELETE", "/v1/models").status_code == 405
        assert (ask(**{"x-tenant": "slow"}), ask(**{"x-tenant": "slow"})) == (200, 429)
        assert ask(**{"x-tenant": "closed"}) == 403
        with daemon.client() as first:
            assert first.get("/v1/models", headers=by_key).status_code == 200
            assert ask(**by_key) == 429
        for said, status in ((b"GARBAGE\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nx: y", b"408")):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(120)
                sock.connect(str(daemon.socket))
                sock.sendall(said)
                assert sock.recv(4096).startswith(b"HTTP/1.1 " + status)
        expected = {
            ("invalid_request", "acme"): 1,
            ("model_not_found", "acme"): 1,
            ("body_too_large", "acme"): 1,
            ("invalid_api_key", ""): 1,
            ("not_found", ""): 2,
            ("forbidden", "acme"): 1,
            ("method_not_allowed", ""): 1,
            ("requests_per_minute_exceeded", "slow"): 1,
            ("tenant_suspended", "closed"): 1,
            ("too_many_connections", "acme"): 1,
            ("malformed_http", ""): 1,
            ("head_timeout", ""): 1,
        }
        assert refusals(daemon) == expected
        for number in range(20):
            name = f"stranger{number}"
            assert ask(**{"x-tenant": name}) == 404
            assert ask(authorization=f"Bearer {name}") == 401
            assert daemon.get(f"/{name}").status_code == 404
            assert daemon.request("BREW", f"/v1/models/{name}").status_code == 400
        assert refusals(daemon).keys() == expected.keys()
        assert "stranger" not in daemon.get("/metrics").text


def test_an_answer_that_fails_after_its_first_token_is_counted_once_and_one_that_nobody_awaits_is_not(
    tmp_path: Path,
) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 20_000, "slots": 2}) as daemon:
        key = daemon.add_tenant("acme")
        long: dict[str, Any] = {"max_tokens": 3000, "ignore_eos": True}
        assert daemon.complete("acme", timeout_s=0.5, **long).status_code == 408
        assert refusals(daemon) == {("request_timeout", "acme"): 1}
        statuses: list[int] = []
        asking = threading.Thread(target=lambda: statuses.append(daemon.complete("acme", **long).status_code))
        asking.start()
        [row] = wait_until(lambda: has_state(daemon, "running"), "its first token")
        assert daemon.post(f"/admin/v1/requests/{row['id']}/cancel").status_code == 200
        asking.join()
        expected = {("request_timeout", "acme"): 1, ("cancelled", "acme"): 1}
        assert (statuses, refusals(daemon)) == ([503], expected)
        with connect(daemon) as sock:
            body = json.dumps({"prompt": "x", **long}).encode()
            sock.sendall(head(key, len(body)) + body)
            wait_until(lambda: has_state(daemon, "running"), "its first token")
        wait_until(lambda: daemon.rows()[-1]["state"] == "disconnected", "its settlement")
        assert refusals(daemon) == expected


def has_state(daemon: Daemon, state: str) -> list[dict[str, Any]]:
    rows = daemon.get("/admin/v1/requests").json()["requests"]
    return [row for row in rows if row["live_state"] == state]


def test_what_is_answered_as_malformed_is_counted_as_that_alone(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        with connect(daemon) as sock:
            sock.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer td_unknown\r\n"
                b"transfer-encoding: chunked\r\n\r\nZZ\r\nabc"
            )
            status, body = read_answer(sock)
        assert (status, error_code(body)) == (400, "invalid_request")
        assert refusals(daemon) == {("malformed_http", ""): 1}


def test_what_comes_while_the_daemon_drains_is_counted(tmp_path: Path) -> None:
    with HeardDaemon(tmp_path, engine={"fake_step_micros": 40_000}) as daemon:
        daemon.add_tenant("acme")
        running = daemon.stream("acme", max_tokens=200, ignore_eos=True).begun(1)
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: daemon.complete("acme").status_code == 503, "the drain")
        running.join()
        assert daemon.wait() == 0
        causes = {(event["cause"], event["http_status"], event["tenant"]) for event in daemon.heard("refused")}
        assert causes == {("draining", 503, "acme")}


@pytest.fixture
def deaf(tmp_path: Path) -> HeardDaemon:
    """With listeners that raise and one that never comes back."""
    return HeardDaemon(tmp_path, bad_listeners=True, engine={"slots": 8})


def counts_of_listeners(daemon: HeardDaemon) -> dict[str, float]:
    """The metrics that have a listener as their label."""
    lines = (line.rsplit(" ", 1) for line in daemon.get("/metrics").text.splitlines() if "listener=" in line)
    return {name: float(value) for name, value in lines}


def test_listeners_that_raise_or_block_harm_no_request(deaf: HeardDaemon) -> None:
    with deaf as daemon:
        daemon.add_tenant("acme", limits={"max_queued": 1000})
        waits_s = []
        for _ in range(40):
            began_s = time.monotonic()
            assert daemon.complete("acme", max_tokens=4, ignore_eos=True).status_code == 200
            waits_s.append(time.monotonic() - began_s)
        assert statistics.median(waits_s) < 10
        streams = [daemon.stream("acme", max_tokens=20, ignore_eos=True) for _ in range(20)]
        assert all(stream.join().done for stream in streams)
        wait_until(lambda: len(daemon.heard("cleaned_up")) == 60, "every request's last event")
        announced = len(daemon.heard())
        assert announced >= 60 * len(KINDS)
        raises = 'tenantd_listener_failures_total{listener="raises"}'
        wait_until(
            lambda: counts_of_listeners(daemon)[raises] == announced, "the last failure in the listener's thread"
        )
        counts = counts_of_listeners(daemon)
        assert counts['tenantd_listener_failures_total{listener="raises at once"}'] == announced
        assert counts['tenantd_events_dropped_total{listener="blocks"}'] == announced - 5
        for quiet in ("metrics", "recorder"):
            assert counts[f'tenantd_events_dropped_total{{listener="{quiet}"}}'] == 0
        assert 'tenantd_requests_total{state="length",tenant="acme"} 60.0' in daemon.get("/metrics").text
        began_s = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began_s < 30
        assert "listener blocks was too slow and missed" in daemon.log.read_text()
