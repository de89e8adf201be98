"""Limits and deadlines of a real daemon."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until


def test_a_client_that_waits_as_long_as_it_is_told_is_let_in_and_a_queueing_tenants_request_waits_by_itself(
    tmp_path: Path,
) -> None:
    """The one test that lasts a minute: only then can a true `retry-after` be told from any other."""
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme", limits={"requests_per_minute": 1})
        daemon.add_tenant("globex", limits={"requests_per_minute": 1, "on_limit": "queue", "max_wait_s": 100})
        assert daemon.complete("acme").status_code == 200
        assert daemon.complete("globex").status_code == 200
        waits = daemon.stream("globex", max_tokens=3, ignore_eos=True)
        wait_until(lambda: daemon.status()["waiting"] == 1, "the request to wait")

        refusal = daemon.complete("acme")
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (429, "requests_per_minute_exceeded")
        assert refusal.headers["x-ratelimit-remaining-requests"] == "0"
        retry_after_ms = int(refusal.headers["retry-after-ms"])
        assert 0 < retry_after_ms <= 60_100
        assert refusal.headers["retry-after"] == str(-(-retry_after_ms // 1000))
        threading.Event().wait(retry_after_ms / 1000)
        assert daemon.complete("acme").status_code == 200

        waits.join()
        assert (waits.done, waits.tokens) == (True, 3)
        assert len(daemon.rows()) == 4
        assert daemon.stop() == 0


def test_a_request_ends_at_its_deadline_with_what_it_got_billed(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 20_000}) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=2000, ignore_eos=True, timeout_s=3).join()
        whole = daemon.complete("acme", max_tokens=2000, ignore_eos=True, timeout_s=3)
        rows = daemon.rows()
        assert daemon.stop() == 0
    assert stream.error is not None and stream.error["code"] == "request_timeout"
    assert 0 < stream.tokens < 300 and not stream.done
    assert (whole.status_code, whole.json()["error"]["code"]) == (408, "request_timeout")
    assert [row["state"] for row in rows] == ["cancelled", "cancelled"]
    assert rows[0]["completion_tokens"] >= stream.tokens
    assert all(row["output_nanos"] > 0 for row in rows)


def test_the_tokens_of_this_minute_outlive_the_engine(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 2000}) as daemon:
        daemon.add_tenant("acme", limits={"tokens_per_minute": 60})
        paced = daemon.stream("acme", "x" * 20, max_tokens=100, ignore_eos=True).begun(30)
        pid = daemon.engine_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: daemon.engine_pid() != pid and daemon.status()["state"] == "ready", "a new engine")
        daemon.add_tenant("globex")
        assert daemon.complete("globex", max_tokens=40, ignore_eos=True).status_code == 200  # steps enough for both
        assert 30 <= paced.tokens <= 40 and not paced.done


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_requests_and_tokens_of_this_minute_outlive_the_daemon(tmp_path: Path, how: str) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 2000}) as daemon:
        daemon.add_tenant("acme", limits={"requests_per_minute": 3})
        daemon.add_tenant("globex", limits={"tokens_per_minute": 300})
        for _ in range(3):
            assert daemon.complete("acme", max_tokens=1).status_code == 200
        assert daemon.complete("globex", "x" * 100, max_tokens=100, ignore_eos=True).status_code == 200
        if how == "stopped":
            assert daemon.stop() == 0
        else:
            daemon.kill()
        daemon.start()
        refused = daemon.complete("acme", max_tokens=1)
        assert refused.json()["error"]["code"] == "requests_per_minute_exceeded"
        assert 0 < int(refused.headers["retry-after"]) <= 60
        refused = daemon.complete("globex", "x" * 150, max_tokens=1)
        assert refused.json()["error"]["code"] == "tokens_per_minute_exceeded"
        assert daemon.complete("globex", "x" * 10, max_tokens=1).status_code == 200


def test_defaults_hold_for_everybody_and_change_by_sighup_for_those_without_their_own(tmp_path: Path) -> None:
    engine = {"fake_step_micros": 5000, "context_tokens": 200_000}
    with Daemon(tmp_path, limits={"requests_per_minute": 1}, engine=engine) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("globex", limits={"requests_per_minute": "none", "max_concurrent": 3})
        assert [daemon.complete("acme", max_tokens=1).status_code for _ in range(2)] == [200, 429]
        assert [daemon.complete("globex", max_tokens=1).status_code for _ in range(2)] == [200, 200]

        streams = [daemon.stream("globex", max_tokens=100_000, ignore_eos=True).begun() for _ in range(3)]
        daemon.configure(limits={"requests_per_minute": 100, "max_concurrent": 1})
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: "configuration and tenants reloaded" in daemon.log.read_text(), "the reload")
        both = [daemon.stream("acme", max_tokens=400, ignore_eos=True) for _ in range(2)]
        one = daemon.get("/admin/v1/tenants/acme").json()["tenant"]["effective_limits"]
        assert (one["requests_per_minute"], one["max_concurrent"]) == (100, 1)
        assert {stream.join().status for stream in both} == {200}
        rows = [row for row in daemon.rows() if row["completion_tokens"] == 400]
        first_ended_micros = min(row["created_micros"] + row["duration_micros"] for row in rows)
        second_began_micros = max(row["created_micros"] + row["first_token_micros"] for row in rows)
        assert second_began_micros >= first_ended_micros - 100_000  # the engine ran them one after the other
        assert all(stream.finish_reason is None for stream in streams)  # its own limit is kept
        daemon.configure(limits={"tokens_per_minute": 0})
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: daemon.complete("acme", max_tokens=1).status_code == 403, "the change to reach everybody")


def test_reserved_slots_have_no_default_for_everybody(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, limits={"reserved_slots": 1})
    daemon.launch()
    assert daemon.wait() == 78
    assert "tenantctl tenant set NAME --reserved-slots N" in daemon.log.read_text()
