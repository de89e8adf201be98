"""kill −9 for the engine and for the daemon, under load: nothing lost, nothing twice, nothing unbilled."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until

STREAMS = 16
TOKENS = 400


def test_every_stream_survives_the_engines_death_token_for_token(tmp_path: Path) -> None:
    settings = {"engine": {"slots": STREAMS, "fake_step_micros": 2000}}
    with Daemon(tmp_path, **settings) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("globex")
        body = {"max_tokens": TOKENS, "ignore_eos": True}
        calm = [daemon.stream("acme", f"prompt {i}", **body) for i in range(STREAMS)]
        for stream in calm:
            stream.join()
        shaken = [daemon.stream("globex", f"prompt {i}", **body) for i in range(STREAMS)]
        for tokens in (20, 150):
            for stream in shaken:
                stream.begun(tokens)
            pid = daemon.engine_pid()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda dead=pid: daemon.engine_pid() != dead, "a new engine")
        for undisturbed, stream in zip(calm, shaken, strict=True):
            stream.join()
            assert stream.error is None and stream.done
            assert stream.text == undisturbed.text
            assert stream.usage == undisturbed.usage
        assert daemon.status()["engine_restarts"] == 2
        assert daemon.stop() == 0
    rows = [row for row in daemon.rows() if row["tenant"] == "globex"]
    assert len(rows) == STREAMS
    assert {row["state"] for row in rows} == {"length"}
    assert {row["completion_tokens"] for row in rows} == {TOKENS}
    assert [row["prompt_tokens"] for row in rows] == [s.usage["prompt_tokens"] for s in sort_by_id(shaken)]


def sort_by_id(streams):
    return sorted(streams, key=lambda stream: stream.request_id)


def test_after_the_daemons_death_no_row_is_left_running_and_no_answer_is_without_its_row(tmp_path: Path) -> None:
    settings = {"engine": {"slots": 8, "fake_step_micros": 2000}}
    with Daemon(tmp_path, **settings) as daemon:
        daemon.add_tenant("acme")
        short = [daemon.stream("acme", f"short {i}", max_tokens=5, ignore_eos=True) for i in range(12)]
        long = [daemon.stream("acme", f"long {i}", max_tokens=4000, ignore_eos=True) for i in range(6)]
        for stream in short:
            stream.join()
        for stream in long:
            stream.begun(700)
        wait_until(lambda: all(row["completion_tokens"] for row in daemon.rows()), "a checkpoint of each")
        daemon.kill()
        completed = {s.request_id: s.usage["completion_tokens"] for s in short if s.done}
        assert len(completed) == 12
        daemon.start()
        rows = {row["id"]: row for row in daemon.rows()}
        assert not [row for row in rows.values() if row["state"] == "running"]
        for request_id, tokens in completed.items():
            assert rows[request_id]["state"] == "length"
            assert rows[request_id]["completion_tokens"] == tokens
        for stream in long:
            row = rows[stream.join().request_id]
            assert row["state"] == "interrupted"
            assert 0 < row["completion_tokens"] <= stream.tokens
        assert daemon.complete("acme", max_tokens=3).status_code == 200


def test_a_hanging_engine_is_replaced_and_the_stream_goes_on(tmp_path: Path) -> None:
    settings = {"engine": {"slots": 2, "fake_step_micros": 2000, "hang_timeout_s": 3}}
    with Daemon(tmp_path, **settings) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=1500, ignore_eos=True).begun(10)
        os.kill(daemon.engine_pid(), signal.SIGSTOP)
        stream.join()
        assert stream.usage is not None and stream.usage["completion_tokens"] == 1500
        assert daemon.status()["engine_restarts"] >= 1  # more where the next one, too, was not heard of for so long


def test_after_too_many_crashes_requests_fail_with_the_reason_and_the_daemon_stays(tmp_path: Path) -> None:
    # A step outlasts what is done here: a token in between would begin the count again.
    settings = {"engine": {"slots": 2, "fake_step_micros": 10_000_000, "max_crashes": 2}}
    with Daemon(tmp_path, **settings) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=4000, ignore_eos=True)
        for crashes in range(2):
            wait_until(lambda n=crashes: daemon.status()["engine_restarts"] == n, "the engine's replacement")
            wait_until(lambda: daemon.status()["state"] == "ready", "an engine")
            wait_until(lambda: daemon.status()["running"] + daemon.status()["waiting"] == 1, "a live request")
            os.kill(daemon.engine_pid(), signal.SIGKILL)
        stream.join()
        assert stream.error is not None and stream.error["code"] == "engine_unavailable"
        assert "signal 9" in stream.error["message"]
        assert daemon.get("/healthz").status_code == 200


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_lets_running_requests_finish_and_takes_no_new_ones(tmp_path: Path, first: int) -> None:
    with Daemon(tmp_path, engine={"slots": 2, "fake_step_micros": 40_000}) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=200, ignore_eos=True).begun(5)
        with daemon.client() as client:
            client.get("/healthz")  # a connection that is open before the drain begins
            daemon.signal(first)
            wait_until(lambda: client.get("/readyz").json()["status"] == "draining", "the drain")
            answer = client.post("/v1/completions", json={"prompt": "x"}, headers={"X-Tenant": "acme"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        stream.join()
        assert stream.finish_reason == "length" and stream.done
        assert daemon.wait() == 0
    assert not daemon.socket.exists()
    assert [row["state"] for row in daemon.rows()] == ["length"]


def test_a_second_interrupt_stops_at_once_and_settles_what_ran(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 2, "fake_step_micros": 50_000}) as daemon:
        daemon.add_tenant("acme")
        daemon.stream("acme", max_tokens=4000, ignore_eos=True).begun(2)
        daemon.signal(signal.SIGINT)
        wait_until(lambda: daemon.get("/readyz").json()["status"] == "draining", "the drain")
        daemon.signal(signal.SIGINT)
        daemon.wait(timeout_s=60)
    (row,) = daemon.rows()
    assert row["state"] == "cancelled" and row["completion_tokens"] >= 2


def usage_of(daemon: Daemon, name: str) -> float:
    return next(t["usage"] for t in daemon.status()["tenants"] if t["name"] == name)


def test_usage_outlives_the_engine_and_the_daemon(tmp_path: Path) -> None:
    with Daemon(tmp_path, scheduler={"half_life_s": 3600}) as daemon:
        daemon.add_tenant("acme", weight=2)
        daemon.complete("acme", list(range(65, 85)), max_tokens=40, ignore_eos=True)
        spent = (20 + 2 * 40) / 2
        before = wait_until(lambda: (now := usage_of(daemon, "acme")) >= 0.95 * spent and now, "all of its usage")
        assert before == pytest.approx(spent, rel=0.05)
        pid = daemon.engine_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: daemon.status()["engine_pid"] not in (None, pid), "a new engine")
        daemon.add_tenant("globex")
        daemon.complete("globex", "x", max_tokens=1, ignore_eos=True)  # the new engine speaks of everyone's usage
        wait_until(lambda: usage_of(daemon, "globex"), "usage")
        assert usage_of(daemon, "acme") == pytest.approx(before, rel=0.05)
        assert daemon.stop() == 0
        daemon.start()
        assert usage_of(daemon, "acme") == pytest.approx(before, rel=0.05)
