"""What commands show to somebody who does not administer: their own, from the routes of tenants."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.cli import fake_daemon
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.fake_generation import queued

ID = "req_" + "0123456789abcdef" * 2
OWN = {
    name: value
    for name, value in msgspec.to_builtins(fake_daemon.RECORD).items()
    if name not in ("tenant", "tenant_id", "uid", "adapter", "price_id", "unbilled")
} | {"id": ID, "list_nanos": 1900, "cost_nanos": 1900, "live_state": None}
TOTAL = {name: value for name, value in msgspec.to_builtins(fake_daemon.USAGE).items() if not name.startswith("tenant")}
PERIOD = {"since_micros": 0, "until_micros": 10**15, "timezone": "UTC", "currency": "USD"}
LIMITS = {
    "tenant": "acme",
    "state": "active",
    "limits": {"max_concurrent": 4, "max_queued": 256, "requests_per_minute": 60, "context_tokens": None},
    "rates": {"requests": {"limit": 60, "remaining": 53, "reset_micros": 42_000_000}, "tokens": None},
    "budgets": [],
    "running": 3,
    "waiting": 1,
}
PAPER = msgspec.to_builtins(fake_daemon.INVOICE)["tenants"][0]


@pytest.fixture
def own(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    """Somebody with a key of acme."""
    monkeypatch.setenv("TENANTD_API_KEY", "td_key")
    daemon.who = {"administers": False, "tenants": ["acme"]}
    month = {"month": "2026-11", "open": True, **PERIOD}
    daemon.answers = {
        ("GET", "/v1/usage"): {**PERIOD, "total": TOTAL},
        ("GET", "/v1/limits"): LIMITS,
        ("GET", "/v1/requests"): {"requests": [OWN], "next": None},
        ("GET", f"/v1/requests/{ID}"): {"request": OWN},
        ("GET", "/v1/requests/89abcdef"): {"request": OWN},
        ("POST", f"/v1/requests/{ID}/cancel"): {"cancelled": ID},
        ("GET", "/v1/invoices/this"): {**month, "invoice": PAPER},
    }
    daemon.queue = [queued("req_2", "")]
    return daemon


def asked(daemon: FakeDaemon) -> list[str]:
    """Which of the tenant's routes; no other was."""
    assert all(path.startswith("/v1/") for _, path, _, _ in daemon.seen), daemon.seen
    return [path for _, path, _, _ in daemon.seen]


@pytest.mark.parametrize(
    ("arguments", "path", "shows"),
    [
        (["usage", "--month", "last"], "/v1/usage?month=last", ["acme", "1000", "0.000123"]),
        (["stats"], "/v1/usage?since=", ["acme", "3 (1 completed", "3.00ms"]),
        (["stats", "--month", "last"], "/v1/usage?month=last", ["66.7%"]),
        (["requests"], "/v1/requests?limit=50", [ID, "acme", "0.0000019"]),
        (["requests", "--state", "stop"], "/v1/requests?state=stop&limit=50", [ID]),
        (["requests", "show", ID], f"/v1/requests/{ID}", [ID, "completion, model gemma"]),
        (["invoice"], "/v1/invoices/this", ["acme: 3 requests", "0.0001228"]),
        (["limits"], "/v1/limits", ["requests per minute     7       60    53"]),
        (["limits"], "/v1/limits", ["max concurrent          3        4     1"]),
        (["status"], "/v1/limits", ["acme (active)", "3 running, 1 waiting", "req_2"]),
        (["queue"], None, ["req_2", "8-20 s"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_tenants_are_shown_their_own(
    cli: Cli, own: FakeDaemon, arguments: list[str], path: str | None, shows: list[str]
) -> None:
    done = cli(*arguments)
    assert done.exit_code == 0, done.stderr
    assert [text for text in shows if text not in done.stdout] == [], done.stdout
    assert all(any(each.startswith(path) for each in asked(own)) for _ in [0] if path) and len(asked(own)) <= 1
    for _, _, headers, _ in own.seen:
        assert headers["authorization"] == "Bearer td_key" and headers.get("x-tenant") in ("acme", None)


def test_cancelling_finds_ones_own_request_by_the_end_of_its_id(cli: Cli, own: FakeDaemon) -> None:
    done = cli("cancel", "89abcdef")
    assert (done.exit_code, f"cancelled {ID}" in done.stderr) == (0, True), done.stderr
    assert asked(own) == ["/v1/requests/89abcdef", f"/v1/requests/{ID}/cancel"]
    assert cli("cancel", "00000000").exit_code == 1


def test_json_and_csv_are_the_tenants_figures(cli: Cli, own: FakeDaemon) -> None:
    assert json.loads(cli("usage", "--json").stdout)["total"] == TOTAL
    header, row = cli("usage", "--csv").stdout.splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["tenant"] == "acme"
    assert json.loads(cli("stats", "--json").stdout)["total"]["requests"] == 3
    assert cli("stats", "--csv").stdout.splitlines()[1].startswith("acme,3,")
    assert json.loads(cli("requests", "--json").stdout)["requests"] == [{**OWN, "tenant": "acme"}]
    assert json.loads(cli("status", "--json").stdout)["limits"] == LIMITS["limits"]
    assert json.loads(cli("queue", "--json").stdout)["waiting"] == own.queue
    assert json.loads(cli("invoice", "--json").stdout)["tenants"] == [PAPER]


def test_users_of_several_tenants_choose_one(cli: Cli, own: FakeDaemon) -> None:
    own.who = {"administers": False, "tenants": ["acme", "globex"]}
    done = cli("usage")
    assert done.exit_code == 2 and "acme, globex" in done.stderr
    assert cli("usage", "--tenant", "globex").exit_code == 0
    assert own.seen[-1][2]["x-tenant"] == "globex"


def test_administrators_see_everything_or_a_tenant_that_they_name(cli: Cli, own: FakeDaemon) -> None:
    own.who = {"administers": True, "tenants": []}
    assert cli("usage").exit_code == 0
    assert own.seen[-1][1] == "usage?month=this"
    assert cli("status", "--tenant", "globex").exit_code == 0
    assert (own.seen[-1][1], own.seen[-1][2]["x-tenant"]) == ("/v1/limits", "globex")
    assert cli("--admin", "queue").exit_code == 0
    assert own.seen[-1][1] == "status"


def test_the_user_who_runs_the_daemon_is_not_asked_for(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.who = {"administers": False, "tenants": ["acme"]}
    assert cli("usage").exit_code == 0
    assert daemon.seen[-1][1] == "usage?month=this"


def test_pages_are_put_together(cli: Cli, own: FakeDaemon) -> None:
    own.answers["GET", "/v1/requests"] = {"requests": [OWN] * 200, "next": ID}
    assert json.loads(cli("requests", "--limit", "500", "--json").stdout)["next"] == ID
    assert [path.split("?")[1] for path in asked(own)] == [
        "limit=200",
        f"limit=200&after={ID}",
        f"limit=100&after={ID}",
    ]
