"""`tenantctl doctor --isolation` on a real daemon: what it prints, what it leaves, and what it does to requests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tenantctl.client import Client
from tenantctl.outside.visitors import KEY_LABEL, remove_leftovers
from tenantctl.outside.whole_check import ABOUT, EXIT_CODES, _young
from tenantd.domain import IsolationCheck, Verdict
from tests.support.daemon import Daemon, wait_until
from tests.support.program import command_environment, tenantctl

DOCTOR = ("doctor", "--isolation", "--quick")
USERS = ["acme", "doctor-a-0123abcd", "doctor-a-of-user", "doctor-b-11112222"]  # no check's, although they look like it
ORDER = ["ok", "warn", "fail"]
NAMES = ["logits", "canaries", "released", "timing", "identity"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, engine={"fake_step_micros": 1000}) as running:
        running.add_tenant("acme")
        yield running


def started(daemon: Daemon) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tenantctl.main", "doctor", "--isolation"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command_environment(daemon),
    )


def begun(daemon: Daemon) -> subprocess.Popen[str]:
    """A doctor whose check is in progress in the engine, and takes most of a minute."""
    doctor = started(daemon)
    wait_until(lambda: (now := state(daemon))["status"] == "checking" and now["progress"] > 0, "a check")
    return doctor


def state(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/readyz").json()
    return found


def names_of(daemon: Daemon) -> list[str]:
    return [tenant["name"] for tenant in daemon.get("/admin/v1/tenants").json()["tenants"]]


def test_a_check_is_reported_and_remembered_and_leaves_no_tenants_and_no_bill(daemon: Daemon) -> None:
    assert "never checked" in tenantctl(daemon, "status").stdout
    before = daemon.status()
    done = tenantctl(daemon, *DOCTOR, "--json")
    checks = json.loads(done.stdout)["checks"]
    assert [sorted(check) for check in checks] == [["n", "name", "p", "result"]] * 5
    assert [check["name"] for check in checks] == NAMES
    exact = {check["name"]: check["result"] for check in checks if check["name"] != "timing"}
    assert set(exact.values()) == {"held"}, done.stderr
    timing = checks[3]
    assert timing["result"] in ("held", "inconclusive"), "a machine that runs tests may be too noisy"
    assert done.returncode == {"held": 0, "inconclusive": 75}[timing["result"]]

    wait_until(lambda: all(row["state"] != "running" for row in daemon.rows()), "every settlement")
    after = daemon.status()
    assert not after["is_checking_isolation"], "its turn has ended"
    assert names_of(daemon) == ["acme"]
    rows = daemon.rows()
    assert rows and all(row["unbilled"] and row["tenant"].startswith("doctor-") for row in rows)
    billed_micros = sum(row["engine_micros"] for row in rows)
    busy_micros = after["engine_busy_micros"] - before["engine_busy_micros"]
    assert busy_micros - billed_micros == after["engine_unbilled_micros"] - before["engine_unbilled_micros"] > 0
    assert "doctor" not in daemon.get("/metrics").text
    verdict = "held" if done.returncode == 0 else "inconclusive"
    assert f'tenantd_isolation{{result="{verdict}"}} 1.0' in daemon.get("/metrics").text
    assert f"isolation        {verdict} (quick check, " in tenantctl(daemon, "status").stdout
    asked = {"event": "isolation_checked"}
    wait_until(lambda: daemon.get("/admin/v1/audit", params=asked).json()["entries"], "its entry")
    recorded = tenantctl(daemon, "audit", "log", "--event", "isolation_checked", "--json").stdout
    assert verdict in recorded and "doctor" not in recorded

    last = daemon.get("/admin/v1/isolation").json()["last"]
    assert (daemon.folder / "state" / "isolation.json").stat().st_mode & 0o777 == 0o600
    assert last["quick"] and last["result"] == verdict and [check["name"] for check in last["checks"]] == NAMES
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.get("/admin/v1/isolation").json()["last"] == last


def test_a_timer_does_nothing_while_the_last_check_is_young_enough(daemon: Daemon) -> None:
    checks = [{"name": name, "result": "held", "n": 7, "p": None, "detail": ""} for name in NAMES]
    last = {"checked_micros": time.time_ns() // 1000, "duration_micros": 1, "quick": True, "result": "held"}
    daemon.stop()
    (daemon.folder / "state" / "isolation.json").write_text(json.dumps({**last, "checks": checks}))
    daemon.start()
    done = tenantctl(daemon, *DOCTOR, "--if-older", "7d", "--json")
    assert done.returncode == 0 and "recent enough" in done.stderr and not daemon.rows()
    assert json.loads(done.stdout)["checks"] == [{"name": name, "result": "held", "n": 7, "p": None} for name in NAMES]


def client_with(last: dict[str, Any] | None) -> Client:
    class Answering:
        def get(self, path: str) -> Any:
            return {"last": last}

    return cast(Client, Answering())


def test_only_a_check_that_held_and_is_as_thorough_is_young_enough() -> None:
    def found(result: str, *, age_s: float, was_quick: bool = False, quick: bool = False) -> bool:
        last = {"result": result, "checked_micros": (time.time() - age_s) * 1e6, "quick": was_quick}
        return _young(client_with(last), 100, quick) is not None

    assert found("held", age_s=90) and found("held", age_s=90, was_quick=True, quick=True)
    assert found("held", age_s=90, quick=True)
    assert not found("held", age_s=110) and not found("held", age_s=90, was_quick=True)
    assert not found("failed", age_s=1) and not found("inconclusive", age_s=1)
    assert not found("held", age_s=-1000), "the clock was set back"
    assert _young(client_with(None), 100, True) is None


def test_requests_wait_for_the_check_and_a_second_check_is_refused(daemon: Daemon) -> None:
    doctor = begun(daemon)
    stream = daemon.stream("acme", max_tokens=5)
    assert tenantctl(daemon, "status").stdout.startswith("state            checking")
    second = tenantctl(daemon, *DOCTOR)
    assert second.returncode == 75 and "another check is running: isolation is being checked" in second.stderr
    refused = daemon.post("/admin/v1/isolation", {})
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "check_running"
    assert names_of(daemon) == ["acme"], "the first one's are gone, and the second one made none"
    assert stream.tokens == 0 and state(daemon)["status"] == "checking"
    doctor.kill()
    doctor.communicate()
    assert stream.join().tokens == 5


def test_a_second_check_is_refused_at_once_while_the_first_is_at_the_socket(daemon: Daemon) -> None:
    turn = daemon.post("/admin/v1/isolation/turn", {}).json()["turn"]
    assert state(daemon)["status"] == "ready", "requests are served"
    assert "isolation        being checked now" in tenantctl(daemon, "status").stdout
    second = tenantctl(daemon, *DOCTOR)
    assert second.returncode == 75 and "another check is running" in second.stderr
    assert not daemon.rows(), "it made no tenants and sent nothing"
    daemon.post("/admin/v1/isolation/turn", {"turn": turn, "end": True})
    assert not daemon.status()["is_checking_isolation"]


def test_a_check_ends_soon_when_its_client_leaves(daemon: Daemon) -> None:
    doctor = begun(daemon)
    doctor.kill()
    doctor.communicate()
    wait_until(lambda: state(daemon)["status"] == "ready", "the end of the check", timeout_s=20)
    assert daemon.complete("acme", max_tokens=2).status_code == 200
    assert daemon.get("/admin/v1/isolation").json()["last"] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_check_and_its_tenants(daemon: Daemon, number: signal.Signals) -> None:
    doctor = started(daemon)
    wait_until(lambda: len(names_of(daemon)) == 3, "both tenants")
    doctor.send_signal(number)
    _, err = doctor.communicate(timeout=300)
    assert (doctor.returncode, err) == (128 + number, "")
    assert names_of(daemon) == ["acme"]


def test_what_a_killed_check_left_behind_ends_by_itself_and_a_later_check_removes_it(daemon: Daemon) -> None:
    for name in USERS[1:]:
        daemon.add_tenant(name, unbilled=name != "doctor-b-11112222")
    daemon.post("/admin/v1/tenants/doctor-b-11112222/keys", {"label": KEY_LABEL})
    doctor = started(daemon)
    wait_until(lambda: len(names_of(daemon)) == 6 and len(lasting(daemon)) >= 2, "both tenants and their keys")
    doctor.kill()
    doctor.communicate()
    left = lasting(daemon)
    assert all(0 < key["expires_micros"] - key["created_micros"] <= 3600 * 1_000_000 for key in left)
    with Client(daemon.socket) as client:
        remove_leftovers(client, time.time() + 3500)
        assert len(names_of(daemon)) == 6, "a check may still use them"
        wait_until(lambda: not daemon.status()["running"], "the end of their requests")
        remove_leftovers(client, time.time() + 3700)
    assert sorted(names_of(daemon)) == USERS


def lasting(daemon: Daemon) -> list[dict[str, Any]]:
    """The keys of the check's tenants that work, once those without an end are revoked."""
    own = [name for name in names_of(daemon) if name.startswith("doctor-") and name not in USERS]
    keys = [key for name in own for key in daemon.get(f"/admin/v1/tenants/{name}/keys").json()["keys"]]
    works = [key for key in keys if key["revoked_micros"] is None]
    return works if all(key["expires_micros"] for key in works) else []


def test_an_engine_that_dies_is_restarted_and_the_doctor_says_so(daemon: Daemon) -> None:
    doctor = begun(daemon)
    os.kill(daemon.engine_pid(), signal.SIGKILL)
    out, err = doctor.communicate(timeout=300)
    assert doctor.returncode == 75
    assert "inconclusive" in out and "killed by signal 9" in err and "restarted" in err
    wait_until(daemon.is_ready, "the next engine")
    assert daemon.complete("acme", max_tokens=2).status_code == 200


def test_a_daemon_that_is_told_to_stop_does_not_wait_for_the_check(daemon: Daemon) -> None:
    doctor = begun(daemon)
    assert daemon.stop() == 0
    doctor.communicate(timeout=300)
    assert doctor.returncode in (69, 75)


def test_every_check_and_result_has_its_words() -> None:
    assert list(ABOUT) == NAMES == list(IsolationCheck)
    assert set(EXIT_CODES) == set(Verdict)


def test_options_of_the_check_of_isolation_need_it(daemon: Daemon) -> None:
    assert "add --isolation" in tenantctl(daemon, "doctor", "--quick").stderr
    assert tenantctl(daemon, *DOCTOR, "--if-older", "soon").returncode == 2


def findings(daemon: Daemon) -> tuple[int, dict[str, list[str]]]:
    """Exit status and the levels of each check."""
    done = tenantctl(daemon, "doctor", "--config", str(daemon.config), "--json")
    told = json.loads(done.stdout)
    found: dict[str, list[str]] = {}
    for one in told["findings"]:
        assert one["what"] and (one["level"] == "ok") == (one["cure"] is None), one
        found.setdefault(one["check"], []).append(one["level"])
    assert done.stderr == "" and told["result"] == max((one["level"] for one in told["findings"]), key=ORDER.index)
    return done.returncode, found


def test_an_installation_is_checked_whether_its_daemon_runs_or_not(daemon: Daemon) -> None:
    code, found = findings(daemon)
    well = ("config", "daemon", "socket", "memory", "state folder", "disk", "ledger", "clock")
    assert code == 0 and [found[name] for name in well] == [["ok"]] * len(well)
    assert found["model"] == found["isolation"] == ["warn"]  # the engine is a fake one

    daemon.kill()
    code, found = findings(daemon)
    assert code == 0 and found["daemon"] == found["socket"] == ["warn"]
    assert found["ledger"] == found["clock"] == ["ok"]

    (daemon.folder / "state").chmod(0o770)
    daemon.config.write_text("[engine]\nslotz = 4\n")
    code, found = findings(daemon)
    assert code == 1 and found["config"] == ["fail"]
    shown = tenantctl(daemon, "doctor", "--config", str(daemon.config))
    assert shown.returncode == 1 and "→ did you mean slots?" in shown.stdout
    assert re.search(r"\d+ ok, \d+ warnings?, \d+ failures?", shown.stderr)
