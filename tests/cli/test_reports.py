from __future__ import annotations

import csv
import json

import pytest
from msgspec.structs import replace

from tests.cli import fake_daemon
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon


def table(text: str) -> list[list[str]]:
    return [line.split("  ") for line in text.splitlines()]


def test_usage_shows_tokens_cost_and_latency(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("usage", "--month", "last", "--tenant", "acme")
    assert daemon.seen[0][1] == "usage?month=last&tenant=acme"
    header, row = ([cell.strip() for cell in line if cell] for line in table(result.stdout))
    shown = dict(zip(header, row, strict=True))
    assert shown["requests"] == "3"
    assert shown["failed"] == "2"
    assert shown["prompt tokens"] == "1000"
    assert shown["cached"] == "0"
    assert shown["USD"] == "0.000123"
    assert shown["p99 first ms"] == "-"
    assert shown["engine s"] == "1.235"


def test_usage_is_of_this_month_unless_said(cli: Cli, daemon: FakeDaemon) -> None:
    assert json.loads(cli("usage", "--json").stdout)["currency"] == "USD"
    assert daemon.seen[0][1] == "usage?month=this"


def test_running_requests_that_are_in_no_row_are_told(cli: Cli, daemon: FakeDaemon) -> None:
    whole = json.loads(cli("usage", "--json").stdout)
    for running, said in (
        (0, ""),
        (2, "without 2 running requests, counted at the end; `tenantctl usage` includes them\n"),
    ):
        daemon.answers["GET", "usage"] = {**whole, "tenants": [{**whole["tenants"][0], "running": running}]}
        assert cli("usage", "--by", "day", "--tenant", "acme").stderr == said
        assert daemon.seen[-1][1] == "usage?month=this&tenant=acme"
        assert cli("usage", "--by", "day", "--json").stderr == cli("usage").stderr == ""


def test_requests_shows_the_ledgers_rows(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("requests", "--limit", "5", "--tenant", "acme")
    assert daemon.seen[0][1] == "requests?tenant=acme&limit=5"
    row = result.stdout.splitlines()[1].split()
    assert row[:4] == ["req_1", "acme", "completion", "stop"]
    assert row[-8:] == ["7", "0", "3", "4.5", "1.2", "0.006", "0.0000019", "-"]
    assert json.loads(cli("requests", "--json").stdout)["requests"][0]["cost_nanos"] == 1900


@pytest.mark.parametrize("live", ["waiting", "running", "paused"])
def test_a_live_request_is_shown_as_it_is_now(cli: Cli, daemon: FakeDaemon, live: str) -> None:
    daemon.request = {"state": "running", "live_state": live}
    assert cli("requests").stdout.splitlines()[1].split()[3] == live
    assert json.loads(cli("requests", "--json").stdout)["requests"][0]["state"] == "running"


@pytest.mark.parametrize("limit", ["0", "-3", "10001", "many"])
def test_requests_refuses_an_absurd_limit(cli: Cli, daemon: FakeDaemon, limit: str) -> None:
    assert cli("requests", "--limit", limit).exit_code == 2
    assert not daemon.seen


def test_cancel_names_the_request(cli: Cli, daemon: FakeDaemon) -> None:
    assert "cancelled req_1" in cli("cancel", "req_1").stderr
    assert json.loads(cli("cancel", "req_1", "--json").stdout) == {"cancelled": "req_1"}


@pytest.mark.parametrize("name", ["req_unknown", "../tenants", "a/b?c#d", "é"])
def test_cancelling_what_does_not_run_fails(cli: Cli, daemon: FakeDaemon, name: str) -> None:
    assert cli("cancel", name).exit_code == 1


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_cancelling_asks_no_other_route(cli: Cli, daemon: FakeDaemon, name: str) -> None:
    assert cli("cancel", name).exit_code == 2
    assert not daemon.seen


def test_an_invoice_has_a_part_for_each_tenant_and_exact_money(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("invoice", "--month", "2026-11")
    assert daemon.seen[0][1] == "invoices/2026-11"
    assert (
        result.stdout
        == """\
Invoice 2026-11 so far (UTC, USD)

acme: 3 requests
item           quantity  unit    unit price        USD
input tokens       1000  tokens           -  0.0001000
output tokens        57  tokens           -  0.0000228
total                 -  -                -  0.0001228
rounded               -  -                -       0.00
amount due            -  -                -       0.00

globex: 1 request
item          quantity  unit    unit price                USD
input tokens         3  tokens           -  9000000.000000001
total                -  -                -  9000000.000000001
rounded              -  -                -         9000000.00
amount due           -  -                -         9000000.00

Total: USD 9000000.000122801
Amount due: USD 9000000.00
audit head: 1234, 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
"""
    )


def test_tenants_of_one_name_are_told_apart_by_their_ids(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = [replace(fake_daemon.USAGE, tenant_id=number) for number in (1, 3)]
    monkeypatch.setattr(fake_daemon, "USAGES", [*same, replace(fake_daemon.USAGE, tenant="globex", tenant_id=2)])
    assert [line[0] for line in table(cli("usage").stdout)[1:]] == ["acme (id 1)", "acme (id 3)", "globex", "TOTAL"]
    bill = fake_daemon.INVOICE
    monkeypatch.setattr(fake_daemon, "INVOICE", replace(bill, tenants=[*bill.tenants, *bill.tenants[:1]]))
    parts = [line for line in cli("invoice").stdout.splitlines() if "request" in line]
    assert parts == ["acme (id 1): 3 requests", "globex: 1 request", "acme (id 1): 3 requests"]


def test_an_invoice_as_json_is_the_daemons(cli: Cli, daemon: FakeDaemon) -> None:
    bill = json.loads(cli("invoice", "--month", "last", "--tenant", "acme", "--json").stdout)
    assert bill["total_nanos"] == 9_000_000_000_122_801
    assert daemon.seen[0][1] == "invoices/last?tenant=acme"


def test_an_invoice_as_csv_adds_up(cli: Cli, daemon: FakeDaemon) -> None:
    rows = list(csv.DictReader(cli("invoice", "--csv").stdout.splitlines()))
    assert daemon.seen[0][1] == "invoices/this"
    assert sum(int(row["amount_nanos"]) for row in rows) == 9_000_000 * 10**9, "what is due"
    rounding = [row["amount"] for row in rows if row["meter"] == "rounding"]
    assert rounding == ["-0.0001228", "-0.000000001"]
    assert (
        rows[1].items()
        >= {
            "month": "2026-11",
            "tenant": "acme",
            "description": "output tokens",
            "quantity": "57",
            "unit": "tokens",
            "currency": "USD",
            "amount": "0.0000228",
            "amount_nanos": "22800",
        }.items()
    )


def test_json_and_csv_exclude_each_other(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("invoice", "--csv", "--json").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [["--month"], ["--month", "--json"], ["--json", "--month"], ["--month", "--tenant", "acme"]],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["invoice", "usage"])
def test_a_month_without_a_value_is_the_running_one(
    cli: Cli, daemon: FakeDaemon, command: str, arguments: list[str]
) -> None:
    assert cli(command, *arguments).exit_code == 0
    path = daemon.seen[0][1]
    assert path.startswith("invoices/this" if command == "invoice" else "usage?month=this")
