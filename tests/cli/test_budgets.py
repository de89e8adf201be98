"""`tenantctl budget` and `tenantctl alerts`: exact amounts, tables that fit, and what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tenantctl import budget_table
from tenantctl.audit_lines import what
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon

NOW_S = 1_795_000_000
GIB = 1 << 30


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_table.time, "time", lambda: NOW_S)


def budget(**more: Any) -> dict[str, Any]:
    one = {
        "id": 1,
        "tenant": "acme",
        "tenant_id": 1,
        "key_id": None,
        "period": "monthly",
        "unit": "money",
        "amount": 100_000_000_000,
        "topped_up": 0,
        "used": 12_345_678_901,
        "warn": [80, 100],
        "since_micros": 0,
        "resets_micros": (NOW_S + 3 * 86_400) * 1_000_000,
        "set_micros": 0,
        "topups": [],
        "reserved": 1_000_000,
        "left": 87_653_321_099,
    }
    return {**one, **more}


def answers(daemon: FakeDaemon, *budgets: dict[str, Any], removed: tuple[dict[str, Any], ...] = ()) -> None:
    """What every route of budgets answers."""
    answer = {"currency": "USD", "timezone": "UTC", "budgets": list(budgets), "removed": list(removed)}
    own = "tenants/acme/budgets"
    for route in (("GET", "budgets"), ("GET", own), ("PATCH", own), ("DELETE", own), ("POST", f"{own}/topup")):
        daemon.answers[route] = answer


@pytest.mark.parametrize(
    ("option", "text", "sent"),
    [
        ("--monthly", "100", ("monthly", "money", 100_000_000_000)),
        ("--weekly", "0.1", ("weekly", "money", 100_000_000)),
        ("--daily", "12.345678901", ("daily", "money", 12_345_678_901)),
        ("--daily", "0", ("daily", "money", 0)),
        ("--monthly", "none", ("monthly", "money", None)),
        ("--daily-tokens", "12345", ("daily", "tokens", 12_345)),
        ("--weekly-tokens", "10k", ("weekly", "tokens", 10_000)),
        ("--monthly-tokens", "2.5M", ("monthly", "tokens", 2_500_000)),
        ("--monthly-tokens", "1G", ("monthly", "tokens", 10**9)),
        ("--daily-engine-seconds", "1.5", ("daily", "engine", 1_500_000)),
    ],
)
def test_amounts_are_read_exactly(cli: Cli, daemon: FakeDaemon, option: str, text: str, sent: Any) -> None:
    answers(daemon, budget())
    assert cli("budget", "set", "acme", option, text).exit_code == 0
    method, path, _, body = daemon.seen[-1]
    assert (method, path) == ("PATCH", "tenants/acme/budgets")
    assert body == {"key_id": None, "budgets": [dict(zip(("period", "unit", "amount"), sent, strict=True))]}


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--monthly", "-1"),
        ("--monthly", "nan"),
        ("--monthly", "inf"),
        ("--monthly", "1e3"),
        ("--monthly", "0.1234567891"),
        ("--monthly", "10000000000"),
        ("--monthly", "1,5"),
        ("--monthly", "１"),
        ("--monthly", ""),
        ("--monthly-tokens", "1.5"),
        ("--monthly-tokens", "1.2345k"),
        ("--monthly-tokens", "5T"),
        ("--monthly-tokens", "9" * 19),
        ("--monthly-tokens", "9" * 20),
        ("--daily-engine-seconds", "0.0000001"),
        ("--warn", "0"),
        ("--warn", "101"),
        ("--warn", "50,50"),
        ("--warn", "50,"),
        ("--warn", "half"),
    ],
)
def test_what_is_no_amount_and_no_level_is_refused_before_anything_is_sent(
    cli: Cli, daemon: FakeDaemon, option: str, text: str
) -> None:
    result = cli("budget", "set", "acme", "--weekly", "1", f"{option}={text}")
    assert result.exit_code == 2 and option in result.stderr
    assert not daemon.seen


def test_several_budgets_of_a_key_and_their_levels_are_one_change(cli: Cli, daemon: FakeDaemon) -> None:
    answers(daemon, budget(key_id="key_1"), budget(key_id="key_1", unit="tokens", amount=5, used=7, period="daily"))
    result = cli(
        *("budget", "set", "acme", "--key", "key_1", "--monthly", "100", "--daily-tokens", "5", "--warn", "50, 80%")
    )
    assert result.exit_code == 0 and result.stdout == ""
    assert daemon.seen[-1][3]["key_id"] == "key_1" and len(daemon.seen[-1][3]["budgets"]) == 2
    assert daemon.seen[-1][3]["warn"] == [50, 80]
    assert result.stderr.splitlines() == [
        "acme (key_1): monthly budget of 100.00 USD, 12.345678901 USD used (12%)",
        "acme (key_1): daily budget already used up: 7 of 5 tokens",
    ]
    answers(daemon, budget(unit="tokens", amount=10, topped_up=20, used=15))
    said = "acme: monthly budget of 30 tokens (20 of it topped up), 15 tokens used (50%)\n"
    assert cli("budget", "set", "acme", "--monthly-tokens", "10").stderr == said
    assert cli("budget", "set", "acme", "--warn", "none").exit_code == 0
    assert daemon.seen[-1][3] == {"key_id": None, "budgets": [], "warn": []}
    assert cli("budget", "set", "acme").exit_code == 2
    result = cli("budget", "set", "acme", "--daily-tokens", "9" * 20)
    assert "must be at most 1000000000000000000, or none (got" in " ".join(result.stderr.replace("│", "").split())
    answers(daemon)
    assert "nothing changed: acme has no such budget" in cli("budget", "set", "acme", "--weekly", "none").stderr


LISTED = [
    budget(topups=[{"amount": 20_000_000_000, "reason": "paid", "actor": "uid 0", "at_micros": NOW_S * 1_000_000}]),
    budget(tenant="globex-with-a-name", unit="tokens", period="daily", amount=10_000, used=9_999, left=1, reserved=0),
    budget(tenant="zeta", unit="engine", period="weekly", amount=60_000_000, used=61_500_000, left=0, reserved=0),
]


def test_budgets_are_listed_with_bars_and_topups(cli: Cli, daemon: FakeDaemon) -> None:
    answers(daemon, *LISTED)
    result = cli("budget", "list")
    assert result.exit_code == 0, result.stderr
    head, acme, globex, zeta, topup = result.stdout.splitlines()
    assert head.split() == ["tenant", "budget", "used", "of", "left", "reserved", "share", "resets", "in"]
    assert "monthly USD" in acme and "12.345678901" in acme and "░░░░░░░░  12%" in acme and acme.endswith("3 d")
    assert "daily tokens" in globex and "███████░  99%" in globex, "100% only when it is used up"
    assert "weekly engine s" in zeta and "61.5" in zeta and "████████ 100%" in zeta
    assert topup.startswith("  acme monthly: +20.00 USD on 2026-") and topup.endswith("by uid 0: paid")
    assert cli("budget", "list", "--tenant", "acme").exit_code == 0
    assert daemon.seen[-1][1] == "tenants/acme/budgets"
    assert json.loads(cli("budget", "list", "--json").stdout)["budgets"][0]["used"] == 12_345_678_901
    answers(daemon)
    assert "tenantctl budget set TENANT --monthly" in cli("budget", "list").stderr


def test_keys_have_a_column_if_any_has_a_budget(cli: Cli, daemon: FakeDaemon) -> None:
    answers(daemon, budget(), budget(key_id="key_0123456789ab"))
    head, first, second = cli("budget", "list").stdout.splitlines()
    assert head.split()[:3] == ["tenant", "key", "budget"]
    assert first.split()[:3] == ["acme", "-", "monthly"] and second.split()[1] == "key_0123456789ab"


def test_a_topup_is_one_amount_with_its_reason(cli: Cli, daemon: FakeDaemon) -> None:
    answers(daemon, budget(topped_up=20_000_000_000))
    result = cli("budget", "topup", "acme", "--monthly", "20", "--reason", "paid")
    assert result.exit_code == 0 and "monthly budget of 120.00 USD" in result.stderr
    assert daemon.seen[-1][1] == "tenants/acme/budgets/topup"
    sent = {"key_id": None, "period": "monthly", "unit": "money", "amount": 20_000_000_000, "reason": "paid"}
    assert daemon.seen[-1][3] == sent
    for wrong in ([], ["--monthly", "1", "--daily", "1"], ["--monthly", "none"]):
        assert cli("budget", "topup", "acme", *wrong).exit_code == 2


def test_budgets_are_removed_by_name_or_all_at_once(cli: Cli, daemon: FakeDaemon) -> None:
    both = (budget(), budget(unit="tokens", period="daily", key_id="key_1"))
    answers(daemon, *both, removed=both)
    daemon.answers["DELETE", "tenants/acme/budgets"] = {"currency": "USD", "budgets": [], "removed": both}
    assert cli("budget", "remove", "acme").exit_code == 2, "nobody can be asked"
    result = cli("budget", "remove", "acme", "--key", "key_1", "--yes")
    assert daemon.seen[-1][:2] == ("DELETE", "tenants/acme/budgets?key=key_1")
    assert result.stderr.splitlines() == ["acme: monthly budget removed", "acme (key_1): daily-tokens budget removed"]
    result = cli("budget", "remove", "acme", "--yes")
    assert result.stderr.splitlines()[0] == "budgets of its keys stay; to remove them, pass --key: key_1"
    missing = cli("budget", "remove", "acme", "--weekly", "--yes")
    assert missing.exit_code == 1 and "acme has no such budget" in missing.stderr
    assert cli("budget", "remove", "acme", "--monthly", "daily-tokens", "--yes").exit_code == 0
    assert daemon.seen[-1][3]["budgets"] == [
        {"period": "monthly", "unit": "money", "amount": None},
        {"period": "daily", "unit": "tokens", "amount": None},
    ]
    unknown = cli("budget", "remove", "acme", "yearly", "--yes")
    assert unknown.exit_code == 2 and "monthly-engine-seconds" in unknown.stderr


def test_the_audit_trail_tells_changes_of_budgets_in_their_units() -> None:
    named = {"id": 1, "period": "monthly", "unit": "money"}
    detail = {"action": "budget_set", "by": {"uid": 0}, "budget": named, "key_id": "key_1"}
    changed = {**detail, "before": {"amount": 10**10, "warn": [80]}, "after": {"amount": 25 * 10**8, "warn": [50, 80]}}
    entry = {"event": "administered", "request_id": None, "detail": changed}
    assert what(entry) == "budget_set key_1 monthly: amount 10.00 → 2.50, warn 80 → 50,80, by uid 0"
    entry["detail"] = {**detail, "before": None, "after": {"amount": 10**10, "warn": [80]}}
    assert what(entry) == "budget_set key_1 monthly: amount none → 10.00, warn none → 80, by uid 0"
    topup = {"before": {"topped_up": 0}, "after": {"topped_up": 5 * 10**9}, "reason": "paid"}
    entry["detail"] = {**detail, "action": "budget_topped_up", **topup}
    assert what(entry) == "budget_topped_up key_1 monthly: topped_up 0.00 → 5.00, by uid 0: paid"
    reached = {"key_id": None, "period": "daily", "unit": "tokens", "level": 80, "used": 8, "cap": 10}
    assert what({**entry, "event": "budget_reached", "detail": reached}) == "daily-tokens: 80% reached, 8 of 10 used"


def test_a_tenant_is_shown_with_its_budgets(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme")
    assert "budgets" in cli("tenant", "show", "acme").stdout
    tokens = budget(unit="tokens", period="daily", amount=10, topped_up=5, used=15)
    answers(daemon, budget(), tokens, budget(key_id="key_1"))
    lines = [line for line in cli("tenant", "show", "acme").stdout.splitlines() if "budget" in line]
    assert [line.split("  ")[0] for line in lines] == ["monthly budget", "daily tokens budget", "budgets of keys"]
    assert lines[0].endswith("12.345678901 of 100.00 USD used (12%)") and lines[1].endswith(
        "15 of 15 tokens used (100%)"
    )


ALERTS = {"is_on": True, "delivered": 3, "failed": 1, "dropped": 0, "waiting": 2, "trouble": "HTTP 500"}


def test_a_test_alert_succeeds_or_says_why_it_does_not(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[("POST", "alerts/test")] = {"trouble": "", "status": 204}
    assert cli("alerts", "test").stderr == "delivered (HTTP 204)\n"
    daemon.answers[("POST", "alerts/test")] = {"trouble": "no answer within 10 s", "status": None}
    failed = cli("alerts", "test")
    assert failed.exit_code == 1 and "was not delivered: no answer within 10 s" in failed.stderr
    assert json.loads(cli("alerts", "test", "--json").stdout)["status"] is None
    daemon.answers[("GET", "alerts")] = ALERTS
    shown = cli("alerts").stdout
    assert "sent to alerts.url" in shown and "HTTP 500" in shown
    daemon.answers[("GET", "alerts")] = {**ALERTS, "is_on": False}
    assert "off (alerts.url is not set)" in cli("alerts").stdout
