"""`tenantctl anomalies`: what was found, in words, and how it is cleared."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon


def test_anomalies_are_listed_with_their_reasons_in_80_columns(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("anomalies", "--tenant", "acme")
    assert result.exit_code == 0, result.stderr
    assert daemon.seen[0][1] == "anomalies?tenant=acme"
    first, reason = result.stdout.splitlines()
    assert first.endswith("acme  throttled  (score 12.5 ≥ 10.0)")
    assert reason == "    90% of the requests ask for logprobs or bias logits (usually 10%)"
    assert max(len(first), len(reason)) <= 80
    assert json.loads(cli("anomalies", "--json").stdout)["anomalies"][0]["deviations"][0]["signal"] == "logprobs"


@pytest.mark.parametrize("since", ["7d", "2026-01-31"])
def test_only_newer_ones_can_be_asked_for(cli: Cli, daemon: FakeDaemon, since: str) -> None:
    assert cli("anomalies", "--since", since).exit_code == 0
    assert daemon.seen[0][1].startswith("anomalies?since=1")


def test_a_time_that_is_none_is_refused(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("anomalies", "--since", "tomorrow").exit_code == 2
    assert not daemon.seen


def test_clearing_says_what_stays(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme")
    none = cli("anomalies", "clear", "acme").stderr
    assert "had no anomalies to clear" in none and "not judged" in none
    daemon.anomalies["acme"] = 2
    assert "cleared 2 anomalies of acme; it has its full weight again" in cli("anomalies", "clear", "acme").stderr
    assert daemon.seen[-1][:2] == ("POST", "tenants/acme/anomalies/clear")
    daemon.tenants["acme"]["state"] = "suspended"
    still = cli("anomalies", "clear", "acme").stderr
    assert "tenant resume acme" in still and "whole weight" not in still


def test_what_is_done_about_anomalies_is_set_per_tenant(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("tenant", "add", "acme", "--on-anomaly", "throttle").exit_code == 0
    assert daemon.seen[-1][3]["on_anomaly"] == "throttle"
    assert cli("tenant", "set", "acme", "--on-anomaly", "shout").exit_code == 2
    assert cli("tenant", "set", "acme", "--on-anomaly", "suspend").exit_code == 0
    assert daemon.seen[-1][3] == {"on_anomaly": "suspend"}
