"""Tenants that share a real daemon: slots taken and given back, thousands of requests, removal in the middle."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import httpx

from tests.support.daemon import Daemon, wait_until

LONG_TOKENS = 800
LONG = {"max_tokens": LONG_TOKENS, "ignore_eos": True}


def metric(daemon: Daemon, name: str) -> float:
    lines = daemon.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def test_who_gives_way_to_another_tenant_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 2, "fake_step_micros": 2000}) as daemon:
        daemon.add_tenant("noisy")
        daemon.add_tenant("quiet")
        undisturbed = [daemon.stream("noisy", f"prompt {i}", **LONG).join() for i in range(2)]
        noisy = [daemon.stream("noisy", f"prompt {i % 2}", **LONG) for i in range(6)]
        for stream in noisy[:1]:
            stream.begun(30)
        for _ in range(3):
            assert daemon.complete("quiet", max_tokens=20, ignore_eos=True).status_code == 200
        for i, stream in enumerate(noisy):
            assert stream.join().done
            assert stream.text == undisturbed[i % 2].text
        swaps = daemon.status()["swaps"]
        assert swaps > 0 and metric(daemon, "tenantd_swaps_total") == swaps
        assert metric(daemon, "tenantd_recomputes_total") == daemon.status()["recomputes"] == 0
        rows = [row for row in daemon.rows() if row["tenant"] == "noisy"]
        assert {(row["state"], row["completion_tokens"]) for row in rows} == {("length", LONG_TOKENS)}
        assert daemon.stop() == 0


def test_requests_that_gave_their_slot_away_are_paused_and_never_more_run_than_there_are_slots(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 2, "fake_step_micros": 10_000}) as daemon:
        for name in ("noisy", "quiet"):
            daemon.add_tenant(name)
        noisy = [daemon.stream("noisy", f"{i}", max_tokens=1500, ignore_eos=True).begun(30) for i in range(2)]
        quiet = daemon.stream("quiet", max_tokens=900, ignore_eos=True).begun()
        seen = [daemon.status() for _ in range(20)]
        assert all(status["running"] <= 2 for status in seen)
        assert {status["running"] + status["paused"] + status["waiting"] for status in seen} == {3}
        put_aside = [{t["name"]: (t["running"], t["paused"]) for t in s["tenants"]} for s in seen if s["paused"]]
        assert {"noisy": (1, 1), "quiet": (1, 0)} in put_aside
        assert 'tenantd_paused{tenant="noisy"}' in daemon.get("/metrics").text
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        for stream in (*noisy, quiet):
            assert stream.join().done
        status = wait_until(lambda: (s := daemon.status())["running"] == 0 and s, "the engine to be done")
        assert (status["paused"], status["waiting"]) == (0, 0)


def test_ten_thousand_waiting_requests_of_one_tenant_do_not_delay_another_and_end_when_it_is_removed(
    tmp_path: Path,
) -> None:
    """Eighty requests of 125 prompts each."""
    engine = {"slots": 4, "fake_step_micros": 1000, "context_tokens": 1 << 20}
    settings = {"engine": engine, "limits": {"max_queued": 20_000}}
    with Daemon(tmp_path, **settings) as daemon:
        daemon.add_tenant("noisy")
        daemon.add_tenant("quiet")
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(daemon.complete("noisy", ["a prompt"] * 125, max_tokens=1_000_000, ignore_eos=True))

        threads = [threading.Thread(target=ask) for _ in range(80)]
        for thread in threads:
            thread.start()
        wait_until(lambda: daemon.status()["waiting"] >= 9_990, "ten thousand to wait", 280)  # clients wait for 300
        status = daemon.status()
        assert len(status["queue"]) == 100 and status["queue"][0]["position"] == 1
        first = daemon.stream("quiet", max_tokens=50, ignore_eos=True)
        assert first.join().done
        assert int(first.headers["x-queue-position"]) <= 5
        assert daemon.request("DELETE", "/admin/v1/tenants/noisy").status_code == 200
        for thread in threads:
            thread.join(600)
            assert not thread.is_alive()
        assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(503, "cancelled")}
        answer = daemon.complete("quiet", max_tokens=3)
        assert answer.status_code == 200, answer.text
        wait_until(lambda: (s := daemon.status())["waiting"] == s["paused"] == s["running"] == 0, "nothing to be left")
        rows = [row for row in daemon.rows() if row["tenant"] == "noisy"]
        assert len(rows) == 10_000 and {row["state"] for row in rows} == {"cancelled"}
        assert daemon.stop() == 0


def test_reserves_of_more_slots_than_there_are_left_hold_for_nobody_and_are_warned_of(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 8}) as daemon:
        daemon.add_tenant("acme", limits={"reserved_slots": 6})
        daemon.add_tenant("globex")
        daemon.stop()
        daemon.configure(engine={"slots": 2, "fake_step_micros": 2000})
        daemon.start()
        assert "6 slots are reserved, but engine.slots is only 2" in daemon.log.read_text()
        for i in range(4):
            daemon.stream("acme", f"{i}", max_tokens=3000, ignore_eos=True)
        wait_until(lambda: daemon.status()["running"] >= 2, "acme to run")
        assert daemon.complete("globex", max_tokens=20, ignore_eos=True).status_code == 200
