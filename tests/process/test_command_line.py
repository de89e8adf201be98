"""`tenantctl` on a real daemon: whose request it is, what it sends, and who is billed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tenantctl.main import app
from tests.support.daemon import Daemon, wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("cli")) as daemon:
        yield daemon


def tenantctl(daemon: Daemon, *arguments: str, key: str = "", text: str = "", admin: bool = False) -> Result:
    words = ["--socket", str(daemon.socket), *(["--admin"] if admin else []), *arguments]
    return CliRunner().invoke(app, words, env={"TENANTD_API_KEY": key}, input=text, prog_name="tenantctl")


def test_a_key_decides_whose_request_it_is_and_an_administrator_goes_without_it(daemon: Daemon) -> None:
    key = tenantctl(daemon, "tenant", "add", "acme").stdout.strip()
    result = tenantctl(daemon, "run", "abc", "--max-tokens", "1", key=key, text="de\n")
    assert result.exit_code == 0, result.output
    [row] = daemon.rows()
    assert (row["tenant"], row["prompt_length_tokens"]) == ("acme", 1 + len("abc\nde"))
    refused = tenantctl(daemon, "tenant", "add", "globex", key=key)
    assert refused.exit_code == 77 and "--admin" in refused.stderr
    assert tenantctl(daemon, "tenant", "add", "globex", key=key, admin=True).exit_code == 0
    other = tenantctl(daemon, "run", "--tenant", "globex", "x", key=key)
    assert other.exit_code == 77 and "may not act for tenant 'globex'" in other.stderr


def test_an_unbilled_tenant_is_on_no_invoice_until_it_is_billed(daemon: Daemon, tmp_path: Path) -> None:
    tenantctl(daemon, "tenant", "add", "probe", "--unbilled")
    tenantctl(daemon, "run", "--tenant", "probe", "x", "--max-tokens", "1")
    assert "nothing to bill" in tenantctl(daemon, "invoice", "--month", "--tenant", "probe").stderr
    tenantctl(daemon, "tenant", "set", "probe", "--billed")
    tenantctl(daemon, "run", "--tenant", "probe", "x", "--max-tokens", "1")
    assert "probe: 1 request\n" in tenantctl(daemon, "invoice", "--tenant", "probe").stdout
    [row] = [line.split() for line in tenantctl(daemon, "usage", "--tenant", "probe").stdout.splitlines()[1:]]
    assert row[:2] == ["probe", "2"]


def test_a_limit_is_set_lifted_and_left_to_the_default_again(daemon: Daemon) -> None:
    tenantctl(daemon, "tenant", "add", "limited", "--max-queued", "none")
    for given, shown in (("0", "0 (no queue: "), ("7", "7\n"), ("none", "none\n"), ("default", "256 (default)\n")):
        result = tenantctl(daemon, "tenant", "set", "limited", "--max-queued", given)
        assert f"max queued              {shown}" in result.stdout


def test_a_month_to_come_has_no_invoice(daemon: Daemon) -> None:
    result = tenantctl(daemon, "invoice", "--month", "9998-01")
    assert result.exit_code == 2
    assert "9998-01 has not started" in result.stderr


def states(daemon: Daemon) -> dict[str, str]:
    """What `requests` shows: the state of each by its id."""
    rows = [line.split() for line in tenantctl(daemon, "requests").stdout.splitlines()[1:]]
    return {row[0]: row[3] for row in rows}


def test_requests_shows_what_waits_and_what_is_paused_and_cancel_takes_any_id_that_is_shown(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 20_000}) as daemon:
        for name in ("noisy", "quiet"):
            daemon.add_tenant(name)
        first = daemon.stream("noisy", "a", max_tokens=3000, ignore_eos=True).begun(30)
        second = daemon.stream("noisy", "b", max_tokens=3000, ignore_eos=True)
        wait_until(lambda: sorted(states(daemon).values()) == ["running", "waiting"], "one that waits")
        [waiting] = [line.split()[0] for line in tenantctl(daemon, "status").stdout.splitlines()[-1:]]
        assert states(daemon) == {first.request_id: "running", waiting: "waiting"}
        quiet = daemon.stream("quiet", "c", max_tokens=3000, ignore_eos=True).begun()
        wait_until(
            lambda: states(daemon) == {first.request_id: "paused", waiting: "waiting", quiet.request_id: "running"},
            "one that is paused",
        )
        assert {row["state"] for row in daemon.rows()} == {"running"}
        assert quiet.answer_id == "cmpl-" + quiet.request_id.removeprefix("req_")
        for shown, request_id in (
            (quiet.answer_id, quiet.request_id),
            (waiting[-8:], waiting),
            (first.request_id[:30], first.request_id),
        ):
            assert tenantctl(daemon, "cancel", shown).stderr.split()[-1] == request_id
        for stream in (first, second, quiet):
            assert stream.join().error is not None and stream.error["code"] == "cancelled"
        assert set(states(daemon).values()) == {"cancelled"}
        gone = tenantctl(daemon, "cancel", first.request_id)
        assert gone.exit_code == 1 and "is running or waiting" in gone.stderr
        assert tenantctl(daemon, "cancel", first.request_id[-7:]).stderr.endswith("give at least 8 digits of its id\n")


def test_errors_name_options_and_not_headers(daemon: Daemon) -> None:
    key = tenantctl(daemon, "tenant", "add", "own").stdout.strip()
    tenantctl(daemon, "tenant", "add", "other")
    uid = str(os.geteuid())
    nobody = tenantctl(daemon, "run", "x").stderr
    for name in ("own", "other"):
        assert tenantctl(daemon, "tenant", "set", name, "--uid", uid).exit_code == 0
    several = tenantctl(daemon, "run", "x").stderr
    for name in ("own", "other"):
        tenantctl(daemon, "tenant", "set", name, "--uid", "none")
    refused = [
        tenantctl(daemon, *command.split(), key=key).stderr for command in ("price list", "tenant add x", "audit log")
    ]
    assert "which tenant? pass --tenant NAME or set TENANTD_API_KEY" in nobody
    assert "(other, own); choose one with --tenant NAME" in several
    assert all("needs an administrator" in text and "`tenantctl --admin …`" in text for text in refused)
    said = nobody + several + "".join(refused)
    assert not [word for word in ("X-Tenant", "header", "Authorization", "Bearer") if word in said]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tenant", "add", "new", "--weight", "-1"], "weight: must be at least 1e-06"),
        (["tenant", "add", "new", "--weight", "1e300"], "weight: must be at most 1000000\n"),
        (["run", "--tenant", "acme", "x", "--max-tokens", "0"], "--max-tokens: must be at least 1"),
        (["run", "--tenant", "acme", "x", "--temperature", "-1"], "temperature: must be at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_values_out_of_range_are_refused_in_plain_words(daemon: Daemon, arguments: list[str], said: str) -> None:
    tenantctl(daemon, "tenant", "add", "acme")  # unless another test was first
    result = tenantctl(daemon, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr and "nput should" not in result.stderr


def test_the_grand_total_has_the_decimals_of_its_parts(tmp_path: Path) -> None:
    prices = {"input_price_per_million": "0.10", "output_price_per_million": "0.40"}
    with Daemon(tmp_path, billing=prices) as daemon:
        for name, tokens in (("acme", 1), ("globex", 1)):
            daemon.add_tenant(name)
            assert daemon.complete(name, "abcd", max_tokens=tokens, ignore_eos=True).status_code == 200
        text = tenantctl(daemon, "invoice").stdout
    amounts = re.findall(r"^(.*?)[ :].*\d+\.(\d+)$", text, re.MULTILINE)  # the item and the last column
    exact = [decimals for item, decimals in amounts if item not in ("rounded", "amount", "Amount")]
    cents = [decimals for item, decimals in amounts if item in ("rounded", "amount", "Amount")]
    assert len(exact) == 7 and {len(decimals) for decimals in exact} == {7}, text
    assert len(cents) == 5 and {len(decimals) for decimals in cents} == {2}, text
