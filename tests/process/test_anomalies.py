"""A real daemon notices that a tenant copies the model, does what it is told about it, and leaves the others alone."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tenantd.text.sketches import Sketcher
from tenantd.watching.anomalies import AnomalyWatch, HabitFile
from tests.support.daemon import Daemon, wait_until
from tests.support.little_traffic import DAY_MICROS, Prompt, day, extraction, harmless
from tests.support.network import logged
from tests.support.program import tenantctl

DAYS = 9
TENANTS = {"watched": "log", "slowed": "throttle", "stopped": "suspend", "calm": "suspend"}
"""What is to be done about each. They get the ids 1 to 4."""


def worked_for_days(folder: Path) -> None:
    """Make the file of a watch that has seen the tenants work until yesterday."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    file = HabitFile(folder / "habits.npz")
    key, habits = file.load()
    watch = AnomalyWatch(file, key, habits, lambda *_: None)
    begin_micros = (time.time_ns() // 1000 // DAY_MICROS - DAYS) * DAY_MICROS
    for number in range(DAYS):
        for tenant_id in range(1, len(TENANTS) + 1):
            for event in day(Sketcher(key), number, 20, harmless, tenant_id, begin_micros):
                watch.hear(event)
    watch.save()


def send(daemon: Daemon, tenant: str, prompt: Prompt) -> int:
    tokens, output, probing = prompt
    more: dict[str, Any] = {"logprobs": 5} if probing else {}
    answer = daemon.complete(tenant, tokens, max_tokens=min(output, 60), ignore_eos=True, **more)
    return answer.status_code


def anomalies(daemon: Daemon, tenant: str) -> list[dict[str, Any]]:
    answer = daemon.get("/admin/v1/anomalies", params={"tenant": tenant}).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["anomalies"]
    return found


def shown(daemon: Daemon, tenant: str) -> dict[str, Any]:
    answer: dict[str, Any] = daemon.get(f"/admin/v1/tenants/{tenant}").raise_for_status().json()["tenant"]
    return answer


def throttled(daemon: Daemon) -> dict[str, bool]:
    return {tenant["name"]: tenant["throttled"] for tenant in daemon.status()["tenants"]}


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    worked_for_days(tmp_path / "state")
    with Daemon(tmp_path) as running:
        for tenant, action in TENANTS.items():
            running.add_tenant(tenant, on_anomaly=action)
        assert [shown(running, tenant)["id"] for tenant in TENANTS] == [1, 2, 3, 4]
        yield running


def test_a_copy_is_found_and_answered_as_each_tenant_has_it(daemon: Daemon) -> None:
    rng = random.Random(1)
    assert {send(daemon, "calm", harmless(rng)) for _ in range(40)} == {200}
    for tenant in ("watched", "slowed", "stopped"):
        for _ in range(200):
            if send(daemon, tenant, extraction(rng)) != 200 or anomalies(daemon, tenant):
                break
        [found] = wait_until(lambda tenant=tenant: anomalies(daemon, tenant), f"{tenant} to be found")
        assert (found["tenant"], found["action"]) == (tenant, TENANTS[tenant])
        assert found["score"] >= found["threshold"] and found["cleared_micros"] is None
        assert any("logprobs" in reason for reason in found["reasons"])
    wait_until(lambda: shown(daemon, "stopped")["state"] == "suspended", "the suspension")
    wait_until(lambda: shown(daemon, "slowed")["throttled_micros"], "the throttling")
    wait_until(lambda: send(daemon, "stopped", harmless(rng)) == 403, "requests to be refused")
    only_slowed = {"watched": False, "slowed": True, "stopped": False, "calm": False}
    wait_until(lambda: throttled(daemon) == only_slowed, "the scheduler to know of it")
    assert anomalies(daemon, "calm") == [] and shown(daemon, "calm")["state"] == "active"
    metrics = daemon.get("/metrics").text
    assert 'tenantd_anomalies_total{action="throttle",tenant="slowed"} 1.0' in metrics
    assert 'tenantd_throttled{tenant="slowed"} 1.0' in metrics
    assert "tenantd_unwatched_prompts_total 0.0" in metrics and daemon.status()["unwatched_prompts"] == 0
    logged(daemon, "tenant stopped may be copying the model: ")
    trail = daemon.get("/admin/v1/audit", params={"tenant": "stopped"}).raise_for_status().json()["entries"]
    assert [entry for entry in trail if entry["event"] == "anomaly_found"]
    [suspension] = [e for e in trail if e["event"] == "administered" and e["detail"]["action"] == "tenant_suspended"]
    assert suspension["detail"]["by"] == {"part": "anomaly watch"}

    listed = tenantctl(daemon, "anomalies", "--since", "1h")
    assert listed.returncode == 0, listed.stderr
    assert "slowed  throttled" in listed.stdout and "ask for logprobs" in listed.stdout
    assert "throttled to 1/8" in tenantctl(daemon, "tenant", "show", "slowed").stdout
    assert "active, throttled" in tenantctl(daemon, "status").stdout
    cleared = tenantctl(daemon, "anomalies", "clear", "slowed")
    assert cleared.returncode == 0 and "cleared 1 anomaly of slowed; it has its full weight again" in cleared.stderr
    assert shown(daemon, "slowed")["throttled_micros"] is None
    assert anomalies(daemon, "slowed")[0]["cleared_micros"] is not None
    assert {send(daemon, "slowed", extraction(rng)) for _ in range(40)} == {200}
    still = tenantctl(daemon, "anomalies", "clear", "stopped")
    assert "tenant resume stopped" in still.stderr and shown(daemon, "stopped")["state"] == "suspended"
    assert len(anomalies(daemon, "slowed")) == 1
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


def test_without_the_watch_nothing_is_sketched_and_nothing_found(tmp_path: Path) -> None:
    worked_for_days(tmp_path / "state")
    before = (tmp_path / "state" / "habits.npz").read_bytes()
    with Daemon(tmp_path, security={"anomalies": False}) as running:
        running.add_tenant("watched")
        rng = random.Random(1)
        assert {send(running, "watched", extraction(rng)) for _ in range(40)} == {200}
        assert anomalies(running, "watched") == []
        assert running.stop() == 0
    assert (tmp_path / "state" / "habits.npz").read_bytes() == before


def test_without_the_watch_its_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "habits.npz").write_bytes(b"not what it was")
    with Daemon(tmp_path, security={"anomalies": False}) as running:
        assert running.stop() == 0
    assert "anomaly watch" not in running.log.read_text()


def test_a_disk_that_hangs_as_the_daemon_stops_loses_no_row(tmp_path: Path) -> None:
    with Daemon(tmp_path) as running:
        running.add_tenant("acme")
        assert send(running, "acme", ([1, 2, 3], 2, False)) == 200
        os.mkfifo(tmp_path / "state" / "habits.npz.new")  # opening it hangs
        assert running.stop() == 0
    log = running.log.read_text()
    assert "what the anomaly watch learned recently is not saved" in log and "not everything stopped" not in log
    assert not (tmp_path / "state" / "ledger.db-wal").exists(), "the ledger was closed"
