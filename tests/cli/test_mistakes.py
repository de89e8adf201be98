"""The mistakes that are made most often: each is answered with what is wrong and how to mend it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tenantd import errors
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon

USAGE, MISSING, DENIED = 2, 69, 77


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("stauts", USAGE, "no command 'stauts'; did you mean stats or status?"),
        ("tenant lst", USAGE, "no command 'lst'; did you mean list"),
        ("tenant delete acme", USAGE, "no command 'delete'; did you mean remove?"),
        ("tenant unsuspend acme", USAGE, "no command 'unsuspend'; did you mean resume?"),
        ("key new acme", USAGE, "no command 'new'; did you mean create?"),
        ("price show", USAGE, "no command 'show'; did you mean list?"),
        ("usage acme", USAGE, "too many arguments (also got acme); for a tenant, write: --tenant acme"),
        ("invoice acme", USAGE, "no command 'acme'; for a tenant, write: --tenant acme"),
        ("requests acme", USAGE, "no command 'acme'; for a tenant, write: --tenant acme"),
        ("alerts fire", USAGE, "no command 'fire'; there is only test"),
        ("invoice --format csv --out may.csv", USAGE, "for one file, write: --format csv > may.csv"),
        ("--tenant acme run hi", USAGE, "options of a command go after it"),
        ("run --temprature 1 hi", USAGE, "no option --temprature; did you mean --temperature"),
        ("run --tenant", USAGE, "--tenant needs a value"),
        ("run --json=yes hi", USAGE, "--json takes no value"),
        ("run Hello world", USAGE, "more than one prompt (also got world); put a prompt of several words in quotes"),
        ("run", USAGE, "the prompt is empty; give one, or pipe one in"),
        ("run --max-tokens many hi", USAGE, "--max-tokens: must be a whole number (got 'many')"),
        ("run --temperature warm hi", USAGE, "--temperature: 'warm' is not a number"),
        ("run --timeout 0 hi", USAGE, "--timeout: must be at least 0.001 (got 0.0)"),
        ("run -f nowhere.txt hi", USAGE, "--file: cannot read nowhere.txt: No such file or directory"),
        ("run -f IMAGE hi", USAGE, "is a binary file; only text can be sent"),
        ("run --schema nowhere.json hi", USAGE, "--schema: cannot read nowhere.json: No such file"),
        ("run --tenant Acme hi", USAGE, "--tenant: must be 1–63 characters of a–z, 0–9, _ and -, starting with"),
        ("tenant add", USAGE, "NAME is missing"),
        ("tenant set acme --priority urgent", USAGE, "must be one of high, standard, low (got 'urgent')"),
        ("tenant add acme", 1, "tenant 'acme' already exists"),
        ("tenant show nobody", 1, "no tenant named 'nobody'"),
        ("requests show .", USAGE, "expected a name, an id or a month (got '.')"),
        ("invoice show ..", USAGE, "expected a name, an id or a month (got '..')"),
        ("budget set acme --monthly ten", USAGE, "--monthly: must be a number such as 12.50"),
        ("status --wait long", USAGE, "--wait: must be a number (got 'long')"),
        ("init --config EXISTING", 1, "already exists; use --force to overwrite it"),
        (
            "--socket /nowhere/s status",
            MISSING,
            "no daemon is listening on /nowhere/s; write a configuration with tenantctl init, then start one with: ",
        ),
        ("requests --since tomorrow", USAGE, "--since: must be a time such as 2026-11-29"),
        ("usage --until soon", USAGE, "--until: must be a time such as 2026-11-29"),
        ("audit prune --before soon --yes", USAGE, "--before: must be a time such as 2026-11-29"),
        ("ledger prune --before 2026-13", USAGE, "--before: must be YYYY-MM such as 2026-09, or 'last' (got"),
        ("key create acme --expires soon", USAGE, "--expires: must be a duration such as 90d"),
        ("key rotate key_1 --grace long", USAGE, "--grace: must be a duration such as 90d"),
        ("tenant set acme --uid root", USAGE, "--uid: must be a user id, as id -u NAME prints it, or none"),
        ("run --grammar EMPTY hi", USAGE, "is empty"),
        ("run -f EMPTY", USAGE, "the prompt is empty; give one, or pipe one in"),
        ("completion elvish", USAGE, "must be one of bash, zsh, fish"),
    ],
)
def test_a_mistake_is_answered_with_its_cure(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, typed: str, code: int, said: str
) -> None:
    daemon.add("acme")
    (tmp_path / "image").write_bytes(b"\x89PNG\x00")
    (tmp_path / "existing.toml").touch()
    (tmp_path / "empty").touch()
    names = {
        "EMPTY": str(tmp_path / "empty"),
        "IMAGE": str(tmp_path / "image"),
        "EXISTING": str(tmp_path / "existing.toml"),
    }
    result = cli(*(names.get(word, word) for word in typed.split()), input="")
    assert (result.exit_code, result.stdout) == (code, "")
    first, *rest = result.stderr.splitlines()
    assert first.startswith("tenantctl: ") and said in first
    assert all(line.startswith("See: tenantctl ") and line.endswith(" --help") for line in rest)
    for phrase in ("╭", "Error", "Input should", "Invalid value", "Traceback", "pydantic", "<"):
        assert phrase not in result.stderr


@pytest.mark.parametrize("typed", ["usage acme globex", "usage Acme", "alerts test acme"])
def test_what_cannot_name_a_tenant_is_not_taken_for_one(cli: Cli, typed: str) -> None:
    said = cli(*typed.split()).stderr
    assert "too many arguments (also got " in said and "--tenant" not in said


def test_a_folder_for_invoices_may_be_called_like_a_file(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    folder = tmp_path / "may.csv"
    folder.mkdir()
    assert cli("invoice", "--format", "csv", "--out", os.fspath(folder)).exit_code == 0
    assert list(folder.iterdir())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("invoice", "--month", ""), "expected a name, an id or a month (got '')"),
        (("requests", "show", ""), "expected a name, an id or a month (got '')"),
        (("usage", "--month", "9" * 100_000), "an argument is too long"),
    ],
)
def test_what_would_ask_for_something_else_or_is_endless_is_refused(
    cli: Cli, daemon: FakeDaemon, typed: tuple[str, ...], said: str
) -> None:
    result = cli(*typed)
    assert (result.exit_code, result.stdout, result.stderr) == (USAGE, "", f"tenantctl: {said}\n")


def test_a_field_that_the_daemon_refuses_is_named_as_the_option(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.failure = errors.InvalidRequest("max_context_tokens: must be at least 1", param="max_context_tokens")
    for arguments in (("--max-context-tokens", "0"), ("--max-context-tokens=0",)):
        said = cli("tenant", "set", "acme", *arguments).stderr
        assert said == "tenantctl: --max-context-tokens: must be at least 1\n"
    assert cli("tenant", "set", "acme", "--weight", "2").stderr.startswith("tenantctl: max_context_tokens: ")


def test_a_key_that_is_set_by_mistake_is_named(cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTD_API_KEY", "two words")
    result = cli("tenant", "list")
    assert result.exit_code == DENIED
    assert "TENANTD_API_KEY is not an API key" in result.stderr and "unset it or pass --admin" in result.stderr


def test_a_key_that_the_daemon_does_not_know_is_named_with_its_cure(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.failure = errors.Unauthenticated("this API key is unknown, was revoked or has expired")
    said = cli("usage").stderr
    assert said.startswith("tenantctl: the API key in TENANTD_API_KEY is unknown, was revoked or has expired; set it")
    assert "`tenantctl key create TENANT`" in said and "unset it to act as your Unix user" in said


@pytest.mark.parametrize("content", [b"GGUF\xff", b"GGUF" + bytes(4 << 20)])
def test_a_file_that_is_no_team_is_told_apart(cli: Cli, daemon: FakeDaemon, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "team.toml").write_bytes(content)
    said = cli("tenant", "apply", os.fspath(tmp_path / "team.toml")).stderr
    assert "not a team file: " in said and "to get one: tenantctl tenant export > team.toml" in said


def test_a_socket_that_others_own_is_no_missing_daemon(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.failure = errors.Forbidden("only root and the user that runs tenantd can administer it")
    result = cli("tenant", "list")
    assert (result.exit_code, result.stderr.count("\n")) == (DENIED, 1)


def test_a_text_where_a_folder_is_meant_is_told_apart(cli: Cli, tmp_path: Path) -> None:
    result = cli("run", "-f", os.fspath(tmp_path), "hi")
    assert result.exit_code == USAGE
    assert f"--file: {tmp_path} is a folder; name a file" in result.stderr
