"""Budgets as an operator meets them: commands, warnings and alerts of a real daemon."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.hooks import Hook
from tests.support.program import tenantctl

SECRET = "verysecret"


def ok(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = tenantctl(daemon, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def listed(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok(daemon, "budget", "list", "--json").stdout)["budgets"]
    return found


def trail(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = daemon.get("/admin/v1/audit", params={"event": event}).json()["entries"]
    return entries


def of_action(daemon: Daemon, action: str) -> list[dict[str, Any]]:
    return [entry for entry in trail(daemon, "administered") if entry["detail"]["action"] == action]


def test_a_level_is_told_once_in_log_trail_metric_header_and_alert(tmp_path: Path) -> None:
    with Hook() as hook, Daemon(tmp_path, alerts={"url": hook.url}) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("globex")
        ok(daemon, "budget", "set", "acme", "--monthly-tokens", "100", "--warn", "50,80")
        for _ in range(2):
            quiet = daemon.complete("acme", [5] * 10, max_tokens=10, ignore_eos=True)
            assert quiet.status_code == 200 and "x-tenantd-budget" not in quiet.headers
        assert "x-tenantd-budget" not in daemon.complete("globex", [5] * 60, max_tokens=1).headers
        assert daemon.complete("acme", [5] * 10, max_tokens=15, ignore_eos=True).status_code == 200
        told = daemon.complete("acme", [5], max_tokens=1, ignore_eos=True)
        assert told.headers["x-tenantd-budget"] == "monthly tokens 67%"
        assert "x-tenantd-budget" not in daemon.complete("globex", [5], max_tokens=1).headers, "only its own"
        [alert] = wait_until(lambda: hook.received, "the alert")
        assert alert["alert"] == "budget_reached" and alert["detail"]["level"] == 50
        assert "acme has used 65% of its monthly token budget of 100 tokens" in alert["text"]
        [entry] = wait_until(lambda: trail(daemon, "budget_reached"), "the entry")
        assert (entry["tenant"], entry["detail"]["level"], entry["detail"]["used"]) == ("acme", 50, 65)
        metrics = daemon.get("/metrics").text
        labels = 'period="monthly",tenant="acme",unit="tokens"'
        assert f'tenantd_budget_warnings_total{{level="50",{labels}}} 1.0' in metrics
        assert re.search(r'tenantd_budget_used_ratio\{key="",.*tenant="acme".*\} 0\.67', metrics)
        [status] = [one for one in daemon.status()["tenants"] if one["name"] == "acme"]
        assert status["budget_used_percent"] == 67
        assert daemon.stop() == 0
        log = daemon.log.read_text()
    assert len(re.findall(r"WARNING acme has used 65% of its monthly token budget of 100 tokens", log)) == 1
    assert SECRET not in log


def test_budgets_are_set_listed_topped_up_and_removed(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        assert daemon.complete("acme", [5] * 50, max_tokens=10, ignore_eos=True).status_code == 200
        set_ = ok(
            daemon, "budget", "set", "acme", "--daily-tokens", "40", "--monthly", "12.50", "--weekly-tokens", "10k"
        )
        assert "acme: daily budget already used up: 60 of 40 tokens" in set_.stderr
        refused = daemon.complete("acme", [5], max_tokens=1)
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert re.search(r"; it resets at [0-9-]{10} 00:00 (UTC|Etc/GMT[+-]12)$", refused.json()["error"]["message"])
        ok(daemon, "budget", "topup", "acme", "--daily-tokens", "100", "--reason", "demo today")
        assert daemon.complete("acme", [5], max_tokens=1, ignore_eos=True).status_code == 200
        table = ok(daemon, "budget", "list").stdout
        assert "daily tokens" in table and re.search(
            r"acme daily-tokens: \+100 tokens on .* by uid \d+: demo today", table
        )
        shown = {(one["period"], one["unit"]): one for one in listed(daemon)}
        assert shown["daily", "tokens"]["used"] == 62 and shown["daily", "tokens"]["left"] == 78
        assert shown["monthly", "money"]["amount"] == 12_500_000_000 and shown["monthly", "money"]["used"] == 9500
        actions = [entry["detail"]["action"] for entry in trail(daemon, "administered")]
        assert actions[:4] == ["budget_topped_up", "budget_set", "budget_set", "budget_set"]
        assert "monthly budget" in ok(daemon, "tenant", "show", "acme").stdout
        assert "budget_topped_up daily-tokens: topped_up 0 → 100" in ok(daemon, "audit", "log").stdout
        ok(daemon, "budget", "remove", "acme", "daily-tokens", "--yes")
        assert len(listed(daemon)) == 2
        ok(daemon, "budget", "remove", "acme", "--yes")
        assert listed(daemon) == [] and tenantctl(daemon, "budget", "remove", "acme", "--yes").returncode == 1


def test_lowering_a_budget_below_what_is_used_ends_what_runs(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 10_000}) as daemon:
        daemon.add_tenant("acme")
        running = daemon.stream("acme", max_tokens=4000, ignore_eos=True).begun(5)
        ok(daemon, "budget", "set", "acme", "--daily-tokens", "1")
        assert running.join().finish_reason == "length" and running.error is None
        assert running.tokens < 2000


def test_a_keys_budget_follows_its_rotation_and_dies_with_it(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        first, second = (daemon.post("/admin/v1/tenants/acme/keys", {}).json() for _ in range(2))
        old = first["key"]["id"]
        ok(daemon, "budget", "set", "acme", "--key", old, "--daily-tokens", "30")

        def ask(secret: str, prompt: int) -> int:
            headers = {"authorization": f"Bearer {secret}"}
            body = {"prompt": [5] * prompt, "max_tokens": 1}
            return daemon.post("/v1/completions", body, headers=headers).status_code

        assert ask(first["secret"], 9) == 200
        rotated = daemon.post(f"/admin/v1/keys/{old}/rotate", {"grace_s": 3600}).json()
        assert ask(rotated["secret"], 9) == ask(first["secret"], 5) == 200, "both draw on it"
        assert ask(rotated["secret"], 9) == ask(first["secret"], 9) == 429, "and it is used up for both"
        assert ask(second["secret"], 9) == 200, "another key is not concerned"
        [one] = listed(daemon)
        assert one["key_id"] == rotated["key"]["id"] and one["used"] == 26
        refused = tenantctl(daemon, "budget", "set", "acme", "--key", old, "--daily", "1")
        assert refused.returncode == 1 and rotated["key"]["id"] in refused.stderr
        assert daemon.request("DELETE", f"/admin/v1/keys/{rotated['key']['id']}").status_code == 200
        assert listed(daemon) == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"budgets": [{"period": "monthly", "unit": "money", "amount": -1}]}, "budgets"),
        ({"budgets": [{"period": "monthly", "unit": "money", "amount": 1.5}]}, "budgets"),
        ({"budgets": [{"period": "monthly", "unit": "money", "amount": 10**19}]}, "budgets"),
        ({"budgets": [{"period": "yearly", "unit": "money", "amount": 1}]}, "budgets"),
        ({"budgets": [{"period": "daily", "unit": "money", "amount": 1}] * 2}, "budgets"),
        ({"budgets": [], "warn": [0]}, "warn"),
        ({"budgets": [{"period": "daily", "unit": "money", "amount": 1}], "warn": [50, 50]}, "warn"),
        ({}, "budgets"),
    ],
)
def test_bad_changes_are_refused_by_name(one_daemon: Daemon, body: dict[str, Any], param: str) -> None:
    answer = one_daemon.request("PATCH", "/admin/v1/tenants/acme/budgets", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith(param), answer.text
    assert listed(one_daemon) == []


@pytest.fixture(scope="module")
def one_daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Daemon(tmp_path_factory.mktemp("budgets")) as daemon:
        daemon.add_tenant("acme")
        yield daemon


def test_unknown_tenants_and_keys_are_refused(one_daemon: Daemon) -> None:
    unknown = tenantctl(one_daemon, "budget", "set", "nobody", "--daily", "1")
    assert unknown.returncode == 1 and "no tenant named 'nobody'" in unknown.stderr
    key = tenantctl(one_daemon, "budget", "set", "acme", "--key", "key_unknown", "--daily", "1")
    assert key.returncode == 1 and "tenantctl key list acme" in key.stderr
    assert one_daemon.request("DELETE", "/admin/v1/tenants/acme/budgets?period=yearly").status_code == 400


def test_the_address_of_alerts_can_be_reloaded_and_is_shown_nowhere(tmp_path: Path) -> None:
    with Hook() as hook, Daemon(tmp_path, log={"level": "debug"}) as daemon:
        off = tenantctl(daemon, "alerts", "test")
        assert off.returncode == 2 and "set alerts.url" in off.stderr
        assert "off (alerts.url is not set)" in ok(daemon, "alerts").stdout
        daemon.configure(alerts={"url": hook.url, "timeout_s": 60}, log={"level": "debug"})
        daemon.running.send_signal(signal.SIGHUP)
        wait_until(lambda: daemon.get("/admin/v1/alerts").json()["is_on"], "the reload")
        assert "delivered (HTTP 200)" in ok(daemon, "alerts", "test").stderr
        daemon.configure(alerts={"url": f"http:///{SECRET}", "timeout_s": 60}, log={"level": "debug"})
        daemon.running.send_signal(signal.SIGHUP)
        wait_until(lambda: "alerts.url = ...: must be a URL" in daemon.log.read_text(), "the refusal")
        hook.statuses = [500]
        failed = tenantctl(daemon, "alerts", "test")
        assert failed.returncode == 1 and "HTTP 500" in failed.stderr
        [changed] = wait_until(lambda: of_action(daemon, "reloaded"), "its entry")
        assert changed["detail"]["after"]["alerts.url"] == "(not shown)"
        shown = [
            daemon.get(path).text for path in ("/admin/v1/status", "/admin/v1/audit", "/metrics", "/admin/v1/alerts")
        ]
        assert daemon.stop() == 0
        assert SECRET not in "".join([*shown, daemon.log.read_text()])


@pytest.mark.parametrize("address", ["ftp://example.org/{}", "http:///{}", "https:{}"])
def test_a_bad_address_is_refused_without_being_shown(tmp_path: Path, address: str) -> None:
    daemon = Daemon(tmp_path, alerts={"url": address.format(SECRET)})
    try:
        daemon.launch()
        assert daemon.running.wait(240) == 78
        assert "alerts.url = ...: must be a URL" in daemon.log.read_text() and SECRET not in daemon.log.read_text()
    finally:
        daemon.kill()


def test_a_webhook_that_hangs_delays_neither_answers_nor_the_stop(tmp_path: Path) -> None:
    with Hook() as hook, Daemon(tmp_path, alerts={"url": hook.url, "timeout_s": 300}) as daemon:
        hook.statuses = ["hang"] * 50
        daemon.add_tenant("acme")
        ok(daemon, "budget", "set", "acme", "--daily-tokens", "1k", "--warn", ",".join(map(str, range(1, 50))))
        for _ in range(10):
            assert daemon.complete("acme", [5] * 10, max_tokens=10, ignore_eos=True).status_code == 200
        wait_until(lambda: daemon.get("/admin/v1/alerts").json()["waiting"] == 10, "all wait")
        wait_until(lambda: len(hook.received) == 1, "the first is being sent")
        assert daemon.stop() == 0
