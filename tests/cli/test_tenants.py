from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tenantd import errors
from tenantd.domain import Limits
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon


def test_add_prints_the_key_alone_on_standard_output(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("tenant", "add", "acme", "--weight", "2")
    assert result.exit_code == 0
    assert result.stdout == "td_secret\n"
    assert "shown only once" in result.stderr
    assert 'tenantctl run --tenant acme "' in result.stderr
    assert daemon.seen[0][3] == {"name": "acme", "weight": 2.0}


def test_the_command_to_try_reaches_the_same_daemon(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENANTD_SOCKET")
    result = cli("--socket", str(daemon.socket), "tenant", "add", "acme")
    assert f"tenantctl --socket {daemon.socket} run --tenant acme" in result.stderr


def test_add_sends_every_option(cli: Cli, daemon: FakeDaemon) -> None:
    options = "--priority high --uid 1001 --uid 1002 --max-concurrent 2 --max-queued none"
    options += " --max-tokens-per-request 100 --max-context-tokens 0 --requests-per-minute 30"
    options += " --tokens-per-minute 9000 --reserved-slots 1 --on-limit queue --max-wait default"
    options += " --adapter /a/lora.gguf --unbilled --allow-special"
    assert cli("tenant", "add", "acme", *options.split()).exit_code == 0
    limits = {
        "max_concurrent": 2,
        "max_queued": "none",
        "max_tokens_per_request": 100,
        "max_context_tokens": 0,
        "requests_per_minute": 30,
        "tokens_per_minute": 9000,
        "reserved_slots": 1,
        "on_limit": "queue",
        "max_wait_s": None,
    }
    named = {"name": "acme", "priority": "high", "uids": [1001, 1002], "adapter": "/a/lora.gguf"}
    assert daemon.seen[0][3] == {**named, "unbilled": True, "allow_special": True, "limits": limits}


def test_set_changes_only_what_is_named(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme", uids=[5], limits={"max_queued": 3, "max_concurrent": 4})
    result = cli("tenant", "set", "acme", "--max-queued", "none", "--uid", "none")
    assert result.exit_code == 0
    assert daemon.seen[0][3] == {"uids": [], "limits": {"max_queued": "none"}}
    assert "max queued              none\n" in result.stdout
    assert "max concurrent          4\n" in result.stdout
    cli("tenant", "set", "acme", "--on-limit", "default", "--billed")
    assert daemon.seen[1][3] == {"unbilled": False, "limits": {"on_limit": None}}
    assert "special tokens          not allowed\n" in result.stdout
    result = cli("tenant", "set", "acme", "--allow-special")
    assert daemon.seen[2][3] == {"allow_special": True}
    assert "special tokens          allowed in plain prompts\n" in result.stdout
    cli("tenant", "set", "acme", "--no-allow-special")
    assert daemon.seen[3][3] == {"allow_special": False}


def test_show_says_which_limits_are_the_default_of_all_tenants(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.defaults = Limits(max_queued=0, requests_per_minute=60, tokens_per_minute=600)
    daemon.add("acme", unbilled=True, limits={"requests_per_minute": "none", "max_concurrent": 0, "max_wait_s": 0})
    shown = {line[:24].strip(): line[24:] for line in cli("tenant", "show", "acme").stdout.splitlines()}
    assert shown["max queued"] == "0 (default; no queue: a request runs at once or is refused)"
    assert shown["requests per minute"] == "none"
    assert shown["tokens per minute"] == "600 (default)"
    assert shown["max context tokens"] == "none (default)"
    assert shown["max concurrent"] == "0 (blocks all requests)"
    assert shown["on limit"] == "reject (default)"
    assert shown["max wait s"] == "0 (does not wait)"
    assert shown["billed"] == "no"
    tenant = json.loads(cli("tenant", "show", "acme", "--json").stdout)["tenant"]
    own, effective = tenant["limits"], tenant["effective_limits"]
    assert (own["requests_per_minute"], effective["requests_per_minute"]) == ("none", None)
    assert (own["tokens_per_minute"], effective["tokens_per_minute"]) == (None, 600)


@pytest.mark.parametrize("use", ["on", "off", "default"])
def test_a_cache_is_turned_on_and_off(cli: Cli, daemon: FakeDaemon, use: str) -> None:
    daemon.add("acme", cache="on", effective_cache=True)
    assert "cache                   on\n" in cli("tenant", "show", "acme").stdout
    assert cli("tenant", "set", "acme", "--cache", use).exit_code == 0
    assert daemon.seen[-1][3] == {"cache": use}
    assert cli("tenant", "add", "globex", "--cache", use).exit_code == 0
    assert daemon.seen[-1][3] == {"name": "globex", "cache": use}
    daemon.add("initech")
    assert "cache                   off (default)\n" in cli("tenant", "show", "initech").stdout


@pytest.mark.parametrize(("given", "sent"), [("none", ""), ("lora.gguf", str(Path.cwd() / "lora.gguf"))])
def test_an_adapter_is_named_from_where_one_is(cli: Cli, daemon: FakeDaemon, given: str, sent: str) -> None:
    daemon.add("acme")
    assert cli("tenant", "set", "acme", "--adapter", given).exit_code == 0
    assert daemon.seen[0][3] == {"adapter": sent}


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--cache", "yes"],
        ["--max-queued", "-1"],
        ["--max-queued", "many"],
        ["--max-queued", "2147483649"],
        ["--uid", "x"],
        ["--uid", "none", "--uid", "5"],
        ["--weight", "nan"],
        ["--weight", "1_0"],
        ["--weight", "\u0665"],
        ["--weight", "many"],
        ["--priority", "urgent"],
        ["--requests-per-minute", "1.5"],
        ["--tokens-per-minute", "lots"],
        ["--on-limit", "drop"],
        ["--max-wait", "-1"],
    ],
    ids=" ".join,
)
def test_set_refuses_what_cannot_be_meant(cli: Cli, daemon: FakeDaemon, options: list[str]) -> None:
    daemon.add("acme")
    assert cli("tenant", "set", "acme", *options).exit_code == 2
    assert not daemon.seen


def test_what_a_limit_may_be_is_in_the_message(cli: Cli, daemon: FakeDaemon) -> None:
    flat = {
        option: re.sub(r"[│\s]+", " ", cli("tenant", "set", "acme", option, "many").stderr)
        for option in ("--max-wait", "--on-limit")
    }
    assert "must be a whole number up to 2147483648, none or default (got 'many')" in flat["--max-wait"]
    assert "must be reject, queue or default (got 'many')" in flat["--on-limit"]


@pytest.mark.parametrize("name", ["", "Acme", "a b", "../x", "-", "x" * 64, "naïve"])
def test_a_name_no_tenant_can_have_is_a_usage_error(cli: Cli, daemon: FakeDaemon, name: str) -> None:
    assert cli("tenant", "show", "--", name).exit_code == 2
    assert not daemon.seen


def test_list_and_show_print_the_tenant(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme", weight=2.5, uids=[1, 2], limits={"max_queued": 9, "tokens_per_minute": 600, "max_wait_s": 7})
    header, row = cli("tenant", "list").stdout.splitlines()
    assert dict(zip(header.split(), row.split(), strict=True)) == {
        "tenant": "acme",
        "state": "active",
        "weight": "2.5",
        "priority": "standard",
        "reserved": "-",
        "concurrent": "-",
        "queued": "9",
        "tokens": "-",
        "context": "-",
        "requests/min": "-",
        "tokens/min": "600",
        "on-limit": "reject",
        "uids": "1,2",
    }
    shown = cli("tenant", "show", "acme").stdout
    assert "weight                  2.5\n" in shown
    assert "tokens per minute       600\n" in shown
    assert "max wait s              7\n" in shown


def test_an_empty_list_says_how_to_begin(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("tenant", "list")
    assert "tenantctl tenant add NAME" in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_suspend_and_resume_say_what_they_did(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme")
    assert "suspended" in cli("tenant", "suspend", "acme").stderr
    assert daemon.tenants["acme"]["state"] == "suspended"
    assert "active" in cli("tenant", "resume", "acme").stderr
    assert daemon.tenants["acme"]["state"] == "active"


def test_rename_says_how_to_go_on(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme", weight=2.0)
    result = cli("tenant", "rename", "acme", "acme-corp")
    assert "acme is now acme-corp" in result.stderr and "tenantctl tenant resume acme-corp" in result.stderr
    assert daemon.tenants["acme-corp"]["weight"] == 2.0 and "acme" not in daemon.tenants
    assert cli("tenant", "rename", "acme-corp", "No!").exit_code == 2


def test_remove_without_a_terminal_needs_yes(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme")
    result = cli("tenant", "remove", "acme")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert "acme" in daemon.tenants
    assert cli("tenant", "remove", "acme", "--yes").exit_code == 0
    assert not daemon.tenants


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["tenant", "list"], "tenants"),
        (["tenant", "show", "acme"], "tenant"),
        (["tenant", "set", "acme", "--weight", "3"], "tenant"),
        (["tenant", "suspend", "acme"], "tenant"),
        (["tenant", "remove", "acme", "--yes"], "removed"),
        (["tenant", "add", "globex"], "key"),
        (["key", "create", "acme"], "secret"),
        (["key", "list", "acme"], "keys"),
        (["key", "revoke", "k1"], "key"),
        (["key", "rotate", "k1"], "replaced"),
        (["key", "create", "--admin"], "secret"),
        (["key", "list", "--admin"], "keys"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_json_is_the_daemons_answer(cli: Cli, daemon: FakeDaemon, arguments: list[str], key: str) -> None:
    daemon.add("acme")
    result = cli(*arguments, "--json")
    assert key in json.loads(result.stdout)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("failure", "exit_code"),
    [
        (errors.Forbidden("only root administers"), 77),
        (errors.NotFound("no tenant named 'acme'"), 1),
        (errors.Conflict("there already"), 1),
        (errors.InvalidRequest("weight: too large"), 2),
        (errors.LedgerUnavailable("the disk is full"), 75),
        (errors.TenantdError("a bug"), 1),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_the_daemons_refusal_ends_with_its_reason_and_exit_code(
    cli: Cli, daemon: FakeDaemon, failure: errors.TenantdError, exit_code: int
) -> None:
    daemon.failure = failure
    result = cli("tenant", "show", "acme")
    assert result.exit_code == exit_code
    assert result.stderr == f"tenantctl: {failure.message}\n"
    assert result.stdout == ""
