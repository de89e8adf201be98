"""Prices as administrators set and see them, over the socket and with `tenantctl`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.program import tenantctl

PRICES = "/admin/v1/prices"
SOON = (datetime.now(UTC) + timedelta(days=40)).date().isoformat()


def told(daemon: Daemon, *arguments: str, **environment: str) -> str:
    done = tenantctl(daemon, "price", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def last_cost(daemon: Daemon, tenant: str) -> tuple[int, int, int]:
    """Of a request that is made: output, what of it is free, and the price list."""
    daemon.complete(tenant, max_tokens=3, ignore_eos=True).raise_for_status()
    [row, *_] = daemon.get("/admin/v1/requests", params={"tenant": tenant}).json()["requests"]
    return row["output_nanos"], row["free_nanos"], row["price_id"]


def test_prices_are_set_shown_and_charged_and_who_set_them_is_recorded(tmp_path: Path) -> None:
    with Daemon(tmp_path, billing={"timezone": "Europe/Berlin"}) as daemon:
        for name in ("acme", "globex"):
            daemon.add_tenant(name)
        said = told(daemon, "set", "--output", "7", "--minimum", "2.5")
        assert "price list 2 for all tenants applies from " in said and "(Europe/Berlin)" in said
        assert [line.split()[-2:] for line in said.splitlines()[3:6:2]] == [["0.40", "7.00"], ["0.00", "2.50"]]
        assert "cached prompt tokens will be free" in said
        own = told(daemon, "set", "--tenant", "acme", "--output", "1", "--cached", "0.01", "--free-output-tokens", "1k")
        assert "are free" not in own
        assert last_cost(daemon, "globex") == (3 * 7_000, 0, 2)
        assert last_cost(daemon, "acme") == (3 * 1_000, 3 * 1_000, 3)
        later = told(daemon, "set", "--from", SOON, "--output", "9")
        assert f"applies from {SOON} (Europe/Berlin)" in later
        assert "unchanged, because they have their own prices: acme" in later
        told(daemon, "set", "--from", SOON, "--output", "10")
        assert "nothing to change" in told(daemon, "set", "--output", "7")

        lines = told(daemon, "list", COLUMNS="200").splitlines()
        assert [line.split()[0] for line in lines[:4]] == ["tenant", "(all)", "(all)", "acme"]
        assert lines[2].split()[1:] == [SOON, "0.10", "0.00", "10.00", "0.00", "2.50", "-", "-"]
        assert lines[3].split()[-2:] == ["-", "1k"]
        past = told(daemon, "list", "--past", COLUMNS="200")
        assert " replaced " in past and " past " in past
        told(daemon, "set", "--tenant", "acme", "--like-all")
        assert last_cost(daemon, "acme") == (3 * 7_000, 0, 2), "the list of all"
        assert "acme" not in told(daemon, "list")
        listed = json.loads(told(daemon, "list", "--json", "--tenant", "acme"))
        assert (listed["currency"], listed["timezone"]) == ("USD", "Europe/Berlin")
        assert [(one["tenant"], one["state"]) for one in listed["prices"]] == [
            *((None, state) for state in ("past", "in_force", "replaced", "future")),
            *(("acme", state) for state in ("past", "in_force")),
        ]

        entries = daemon.get("/admin/v1/audit", params={"event": "administered"}).json()["entries"]
        changes = [one for one in entries if one["detail"]["action"] == "prices_set"]
        assert [(one["tenant"], one["detail"]["after"]["price_id"]) for one in changes] == [
            ("acme", 6),
            (None, 5),
            (None, 4),
            ("acme", 3),
            (None, 2),
        ]
        first = changes[-1]["detail"]
        assert first["before"] == {"price_id": 1, "output_nanos_per_million": 400_000_000, "minimum_nanos": 0}
        assert first["after"] == {"price_id": 2, "output_nanos_per_million": 7 * 10**9, "minimum_nanos": 2_500_000_000}
        assert first["by"]["uid"] is not None and first["since_micros"] > 0
        assert "prices_set" in told_audit(daemon)
        checked = tenantctl(daemon, "ledger", "check")
        assert checked.returncode == 0, checked.stdout + checked.stderr


def told_audit(daemon: Daemon) -> str:
    done = tenantctl(daemon, "audit", "log", "--event", "administered")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give at least one price"),
        (("--input", "-1"), "must be an amount from 0 to 1000000"),
        (("--input", "NaN"), "at most 9 decimals"),
        (("--input", "inf"), "at most 9 decimals"),
        (("--input", "0.0000000001"), "at most 9 decimals"),
        (("--output", "1000000.1"), "must be an amount from 0 to 1000000"),
        (("--output", "1e3"), "such as 0.25"),
        (("--output", "١"), "such as 0.25"),
        (("--free-input-tokens", "-5"), "must be a whole number"),
        (("--free-output-tokens", "9999999999G"), "must be a whole number"),
        (("--tenant", "ACME!", "--input", "1"), "1–63 characters"),
        (("--like-all",), "needs --tenant NAME"),
        (("--like-all", "--tenant", "acme", "--input", "1"), "cannot be used with prices"),
    ],
)
def test_amounts_that_are_none_are_refused_before_anything_is_asked(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = tenantctl(tmp_path / "no.sock", "price", "set", *arguments, COLUMNS="200", TERMINAL_WIDTH="200")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in " ".join(done.stderr.replace("│", " ").split())


def test_what_cannot_be_set_is_refused_with_the_field_and_changes_nothing(tmp_path: Path) -> None:
    refused: list[tuple[dict[str, Any], int, str]] = [
        ({"input_nanos_per_million": -1}, 400, "input_nanos_per_million"),
        ({"input_nanos_per_million": 10**15 + 1}, 400, "input_nanos_per_million"),
        ({"input_nanos_per_million": 1.5}, 400, "input_nanos_per_million"),
        ({"input_nanos_per_million": "1"}, 400, "input_nanos_per_million"),
        ({"free_prompt_tokens": 10**16}, 400, "free_prompt_tokens"),
        ({}, 400, "input_nanos_per_million"),
        ({"tenant": "nobody", "minimum_nanos": 1}, 404, "name"),
        ({"tenant": "acme", "like_all": True, "minimum_nanos": 1}, 400, "like_all"),
        ({"like_all": True}, 400, "like_all"),
        ({"price": 1}, 400, "price"),
        *(({"from": text, "minimum_nanos": 1}, 400, "from") for text in ("2026-13-01", "2026-02-30", "2020-01-01", "")),
        *(({"from": text, "minimum_nanos": 1}, 400, "from") for text in ("1969-01-01", "9999-01-01", "0000-00-00")),
        ({"from": "2030-03-31T02:30", "minimum_nanos": 1}, 400, "from"),
    ]
    with Daemon(tmp_path, billing={"timezone": "Europe/Berlin"}) as daemon:
        daemon.add_tenant("acme")
        for body, status, param in refused:
            answer = daemon.post(PRICES, body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), (body, answer.text)
        done = tenantctl(daemon, "price", "set", "--from", "2020-01-01", "--input", "1")
        assert done.returncode == 2 and "tenantctl invoice credit" in done.stderr
        assert daemon.get(PRICES, params={"tenant": "nobody"}).status_code == 404
        assert len(daemon.get(PRICES).json()["prices"]) == 1
        largest = {"input_nanos_per_million": 10**15, "output_nanos_per_million": 10**15, "minimum_nanos": 10**15}
        assert daemon.post(PRICES, largest).status_code == 201
        assert last_cost(daemon, "acme")[0] == 3 * 10**9


def test_a_ledger_with_money_goes_on_in_another_currency_with_its_tenants_and_keys(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        key = daemon.add_tenant("acme")
        last_cost(daemon, "acme")
        renew = ("ledger", "renew", "--currency", "EUR", "--state-dir", str(tmp_path / "state"))
        running = tenantctl(daemon, *renew, "--yes")
        assert running.returncode != 0 and "stop it first" in running.stderr
        assert daemon.stop() == 0
        daemon.configure(billing={"currency": "EUR"})
        daemon.launch()
        assert daemon.wait(240) == 78
        assert "tenantctl ledger renew --currency EUR" in daemon.log.read_text()
        assert "pass --yes to confirm" in tenantctl(daemon, *renew).stderr
        done = tenantctl(daemon, *renew, "--yes")
        assert done.returncode == 0, done.stderr
        assert "1 tenants and 1 keys" in done.stdout and 'set currency = "EUR"' in done.stderr
        daemon.start()
        answer = daemon.post("/v1/completions", {"prompt": "x"}, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert daemon.get(PRICES).json()["currency"] == "EUR"
        assert len(daemon.rows()) == 1
        assert daemon.stop() == 0
