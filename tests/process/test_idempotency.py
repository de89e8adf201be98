"""`Idempotency-Key` on a real daemon: what is sent twice runs once, whoever dies or leaves meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.daemon import Daemon, wait_until

SLOW = {"slots": 2, "fake_step_micros": 4000}
URL = "/v1/completions"
DAY_MICROS = 86_400_000_000


def body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "hello", "max_tokens": 20, "ignore_eos": True, **fields}).encode()


def send(daemon: Daemon, content: bytes, key: str = "k", tenant: str = "acme", url: str = URL) -> httpx.Response:
    headers = {"X-Tenant": tenant, "Idempotency-Key": key, "content-type": "application/json"}
    return daemon.request("POST", url, content=content, headers=headers)


def refusal(answer: httpx.Response, code: str) -> dict[str, Any]:
    assert answer.status_code == 409, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    return error


def once_it_is_over(daemon: Daemon, content: bytes, key: str = "k") -> httpx.Response:
    """Sent again, when the daemon knows as much as the ledger, which may say it first."""

    def answer() -> httpx.Response | None:
        found = send(daemon, content, key)
        is_busy = found.status_code == 409 and found.json()["error"]["code"] == "idempotency_in_progress"
        return None if is_busy else found

    answered: httpx.Response = wait_until(answer, "its end")
    return answered


def begin(daemon: Daemon, content: bytes, key: str = "k", events: int = 1) -> tuple[httpx.Client, Any]:
    """A streamed request that has its first events; its client, to be closed, and its answer."""
    client = daemon.client()
    request = client.build_request("POST", URL, content=content, headers={"X-Tenant": "acme", "Idempotency-Key": key})
    answer = client.send(request, stream=True)
    lines = answer.iter_lines()
    answer.extensions["lines"] = lines  # the connection is closed with it
    for _ in range(2 * events):
        next(lines)
    return client, answer


# -- the first answer again


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_key_and_body_get_the_first_answer_and_are_billed_once(tmp_path: Path, stream: bool) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        content = body(stream=stream, n=2, logprobs=2, temperature=1)
        first = send(daemon, content)
        wait_until(lambda: [row["state"] for row in daemon.rows()] == ["length"] * 2, "settled rows")
        again = [send(daemon, content) for _ in range(3)]
        assert {one.content for one in again} == {first.content} and first.status_code == 200
        for one in again:
            assert one.headers.pop("idempotent-replayed") == "true"
            for name in ("x-request-id", "content-type", "cache-control"):
                assert one.headers.get(name) == first.headers.get(name)
        assert "idempotent-replayed" not in first.headers
        assert len(daemon.rows()) == 2
        assert send(daemon, content, key="other").headers["x-request-id"] != first.headers["x-request-id"]


def test_a_key_is_its_tenants_own_and_stands_for_one_body_on_one_route(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        for name in ("acme", "globex"):
            daemon.add_tenant(name)
        first = send(daemon, body())
        wait_until(lambda: daemon.rows()[0]["state"] == "length", "a settled row")
        other = refusal(send(daemon, body(max_tokens=21)), "idempotency_key_reused")
        assert other["param"] == "idempotency-key" and "x_tenantd" not in other
        refusal(send(daemon, body(), url="/v1/chat/completions"), "idempotency_key_reused")
        globex = send(daemon, body(), tenant="globex")
        assert globex.status_code == 200 and globex.headers["x-request-id"] != first.headers["x-request-id"]
        assert "idempotent-replayed" not in globex.headers
        assert Counter(row["tenant"] for row in daemon.rows()) == {"acme": 1, "globex": 1}


def test_what_is_refused_before_it_has_used_anything_keeps_no_key(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme", limits={"requests_per_minute": 1})
        assert send(daemon, body(temperature=99)).status_code == 400
        assert send(daemon, body(prompt=[999_999])).status_code == 400
        assert send(daemon, body()).status_code == 200
        assert send(daemon, body(), key="second").status_code == 429
        daemon.request("PATCH", "/admin/v1/tenants/acme", json={"limits": {"requests_per_minute": "none"}})
        late = send(daemon, body(max_tokens=3), key="second")
        assert late.status_code == 200 and "idempotent-replayed" not in late.headers
        for wrong in ("", "x" * 256, "tab\there", "caf\xe9".encode("latin-1")):
            headers = {"X-Tenant": "acme", "Idempotency-Key": wrong}
            answer = daemon.request("POST", URL, content=body(), headers=headers)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")
        assert send(daemon, body(), key="~ " * 127 + "!").status_code == 200


def test_an_error_after_something_was_used_is_given_again(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine=SLOW) as daemon:
        daemon.add_tenant("acme")
        content = body(max_tokens=4000, timeout_s=3)
        first = send(daemon, content)
        assert (first.status_code, first.json()["error"]["code"]) == (408, "request_timeout")
        wait_until(lambda: daemon.rows()[0]["state"] == "cancelled", "a settled row")
        again = send(daemon, content)
        assert again.content == first.content and again.status_code == 408
        assert again.headers["x-should-retry"] == "false" and again.headers["idempotent-replayed"] == "true"
        assert len(daemon.rows()) == 1


def test_without_memory_the_ledger_says_what_became_of_it(tmp_path: Path) -> None:
    with Daemon(tmp_path, server={"idempotency_bytes": 1100}) as daemon:
        daemon.add_tenant("acme")
        first = send(daemon, body(max_tokens=200))
        wait_until(lambda: daemon.rows()[0]["state"] == "length", "a settled row")
        gone = send(daemon, body(max_tokens=200))
        about = refusal(gone, "idempotency_result_gone")["x_tenantd"]
        assert about["requests"] == [{"id": first.headers["x-request-id"], "state": "length"}]
        assert about["usage"] == first.json()["usage"]
        assert gone.headers["x-should-retry"] == "false"
        refusal(send(daemon, body()), "idempotency_key_reused")


# -- at once


def test_of_many_at_once_one_runs_and_the_others_are_told_when_to_try_again(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine=SLOW) as daemon:
        daemon.add_tenant("acme")
        content = body(max_tokens=2000)  # eight seconds
        began_s = time.monotonic()

        def ask(_: int) -> tuple[httpx.Response, float]:
            return send(daemon, content), time.monotonic() - began_s

        with ThreadPoolExecutor(50) as threads:
            answered = list(threads.map(ask, range(50)))
        answers = [answer for answer, _ in answered]
        ran = [one for one in answers if one.status_code == 200 and "idempotent-replayed" not in one.headers]
        assert len(ran) == 1 and len(daemon.rows()) == 1
        busy = [(one, after_s) for one, after_s in answered if one.status_code == 409]
        assert len(busy) >= 40
        for one, after_s in busy:
            about = refusal(one, "idempotency_in_progress")["x_tenantd"]
            assert {each["id"] for each in about["requests"]} <= {ran[0].headers["x-request-id"]}
            longest_s = 2000 * after_s  # if every token took as long as the first two
            assert 1 <= int(one.headers["retry-after"]) <= max(60, longest_s) and "x-should-retry" not in one.headers


def test_the_time_to_try_again_is_when_it_has_ended(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 20_000}) as daemon:
        daemon.add_tenant("acme")
        content = body(max_tokens=1000, stream=True)  # twenty seconds
        began_s = time.monotonic()
        client, answer = begin(daemon, content, events=5)
        busy = send(daemon, content)
        slowest_s = 2 * 1000 * (time.monotonic() - began_s) / 5  # by steps as late as these
        about = refusal(busy, "idempotency_in_progress")["x_tenantd"]
        assert about["requests"] == [{"id": answer.headers["x-request-id"], "state": "running"}]
        assert 10 <= int(busy.headers["retry-after"]) <= max(60, slowest_s)
        refusal(send(daemon, body()), "idempotency_key_reused")
        client.close()


# -- who leaves, and who dies


def test_a_client_that_left_learns_what_was_billed_and_one_that_had_nothing_may_try_again(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 10_000}) as daemon:
        daemon.add_tenant("acme")
        content = body(max_tokens=4000, stream=True)
        client, answer = begin(daemon, content)
        with socket.socket(socket.AF_UNIX) as waiting:  # no slot is free for it
            waiting.connect(str(daemon.socket))
            head = "host: x\r\nx-tenant: acme\r\nidempotency-key: waits\r\ncontent-length"
            waiting.sendall(f"POST {URL} HTTP/1.1\r\n{head}: {len(body())}\r\n\r\n".encode() + body())
            wait_until(lambda: len(daemon.rows()) == 2, "both rows")
        wait_until(lambda: "disconnected" in [row["state"] for row in daemon.rows()], "its end")
        client.close()
        wait_until(lambda: [row["state"] for row in daemon.rows()] == ["disconnected"] * 2, "both ends")
        about = refusal(once_it_is_over(daemon, content), "idempotency_result_gone")["x_tenantd"]
        assert about["requests"] == [{"id": answer.headers["x-request-id"], "state": "disconnected"}]
        assert 1 <= about["usage"]["completion_tokens"] < 4000
        assert once_it_is_over(daemon, body(), key="waits").status_code == 200, "it had used nothing"
        assert [row["state"] for row in daemon.rows()] == ["disconnected", "disconnected", "length"]


def test_after_the_daemons_death_nothing_that_was_billed_runs_again(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine=SLOW) as daemon:
        daemon.add_tenant("acme")
        done = send(daemon, body(), key="done")
        long = body(max_tokens=4000, stream=True, n=2)
        client, answer = begin(daemon, long, key="long")
        wait_until(lambda: all(row["completion_tokens"] for row in daemon.rows()), "a checkpoint")
        os.kill(daemon.running.pid, signal.SIGKILL)
        daemon.wait()
        client.close()
        daemon.start()
        about = refusal(send(daemon, body(), key="done"), "idempotency_result_gone")["x_tenantd"]
        assert about["requests"] == [{"id": done.headers["x-request-id"], "state": "length"}]
        about = refusal(send(daemon, long, key="long"), "idempotency_result_gone")["x_tenantd"]
        assert [each["state"] for each in about["requests"]] == ["interrupted"] * 2
        assert about["requests"][0]["id"] == answer.headers["x-request-id"]
        rows = daemon.rows()
        assert len(rows) == 3
        assert about["usage"]["completion_tokens"] == sum(row["completion_tokens"] for row in rows[1:])
        refusal(send(daemon, body(), key="long"), "idempotency_key_reused")


def test_a_request_that_a_kill_left_with_nothing_runs_again_under_its_key(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 10_000}) as daemon:
        daemon.add_tenant("acme")
        client, _ = begin(daemon, body(max_tokens=4000, stream=True), key="holds the slot")
        with ThreadPoolExecutor(1) as thread:
            thread.submit(send, daemon, body(), "waits")
            wait_until(lambda: len(daemon.rows()) == 2, "both rows")
            os.kill(daemon.running.pid, signal.SIGKILL)
            daemon.wait()
        client.close()
        daemon.start()
        assert send(daemon, body(), key="waits").status_code == 200
        wait_until(lambda: daemon.rows()[-1]["state"] == "length", "a settled row")
        assert send(daemon, body(), key="waits").headers["idempotent-replayed"] == "true"


def test_a_key_is_written_with_its_rows_and_forgotten_after_a_day(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        first = send(daemon, body(n=3))
        assert daemon.stop() == 0
        ledger = tmp_path / "state" / "ledger.db"
        with sqlite3.connect(ledger) as conn:
            [(key, ids)] = conn.execute("SELECT key, requests FROM idempotency").fetchall()
            assert key == "k" and json.loads(ids) == [row["id"] for row in daemon.rows()]
            conn.execute("UPDATE idempotency SET created_micros = created_micros - ?", (DAY_MICROS,))
        conn.close()
        daemon.start()

        def keys() -> int:
            with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as conn:
                (count,) = conn.execute("SELECT count(*) FROM idempotency").fetchone()
            conn.close()
            return int(count)

        wait_until(lambda: keys() == 0, "it is pruned")
        later = send(daemon, body(n=3))
        assert later.status_code == 200 and later.headers["x-request-id"] != first.headers["x-request-id"]
