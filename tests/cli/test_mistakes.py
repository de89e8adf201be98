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
        ("budget set acme --monthly ten", USAGE, "--monthly: must be a number such as 12.50"),
        ("status --wait long", USAGE, "--wait: must be a number (got 'long')"),
        ("init --config EXISTING", 1, "already exists; use --force to overwrite it"),
        (
            "--socket /nowhere/s status",
            MISSING,
            "no daemon is listening on /nowhere/s; start one with: tenantctl serve",
        ),
    ],
)
def test_a_mistake_is_answered_with_its_cure(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, typed: str, code: int, said: str
) -> None:
    daemon.add("acme")
    (tmp_path / "image").write_bytes(b"\x89PNG\x00")
    (tmp_path / "existing.toml").touch()
    names = {"IMAGE": str(tmp_path / "image"), "EXISTING": str(tmp_path / "existing.toml")}
    result = cli(*(names.get(word, word) for word in typed.split()), input="")
    assert (result.exit_code, result.stdout) == (code, "")
    first, *rest = result.stderr.splitlines()
    assert first.startswith("tenantctl: ") and said in first
    assert all(line.startswith("See: tenantctl ") and line.endswith(" --help") for line in rest)
    for phrase in ("╭", "Error", "Input should", "Invalid value", "Traceback", "pydantic", "<"):
        assert phrase not in result.stderr


def test_a_key_that_is_set_by_mistake_is_named(cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTD_API_KEY", "two words")
    result = cli("tenant", "list")
    assert result.exit_code == DENIED
    assert "TENANTD_API_KEY is not an API key" in result.stderr and "unset it or pass --admin" in result.stderr


def test_a_socket_that_others_own_is_no_missing_daemon(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.failure = errors.Forbidden("only root and the user that runs tenantd can administer it")
    result = cli("tenant", "list")
    assert (result.exit_code, result.stderr.count("\n")) == (DENIED, 1)


def test_a_text_where_a_folder_is_meant_is_told_apart(cli: Cli, tmp_path: Path) -> None:
    result = cli("run", "-f", os.fspath(tmp_path), "hi")
    assert result.exit_code == USAGE
    assert f"--file: {tmp_path} is a folder; name a file" in result.stderr
