from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from tenantctl.main import app
from tenantctl.shells.scripts import FILES, script
from tenantctl.shells.tree import Command, Option, Value, _check_options_are_alike, command_tree
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon

ROOT = Path(__file__).parent.parent.parent
TREE = command_tree(get_command(app))
COMPLETE = """
source completions/tenantctl.bash
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
compopt() { :; }
_tenantctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tenantctl` can be found by the shell."""
    wrapper = tmp_path / "bin" / "tenantctl"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m tenantctl.main "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")


def complete(*words: str) -> list[str]:
    """What bash offers for the last word."""
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", *words], cwd=ROOT, capture_output=True, timeout=300, check=True
    )
    assert done.stderr == b""
    return done.stdout.decode().split()


@pytest.mark.parametrize(("shell", "name"), FILES.items())
def test_the_scripts_are_those_of_the_commands(cli: Cli, shell: str, name: str) -> None:
    written = (ROOT / "completions" / name).read_text("utf-8")
    assert written == script(shell, TREE), f"tenantctl completion {shell} > completions/{name}"
    assert cli("completion", shell).stdout == written


@pytest.mark.parametrize("shell", FILES)
def test_a_script_has_every_command_and_option(shell: str) -> None:
    text = script(shell, TREE)
    for command in TREE.walk():
        assert all(word in text for word in command.path)
        for option in command.options:
            assert option.names[0].lstrip("-") in text


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tenantctl", "in"], ["init", "invoice"]),
        (["tenantctl", "--socket", "/s", "in"], ["init", "invoice"]),
        (["tenantctl", "--socket", "=", "/s", "in"], ["init", "invoice"]),
        (["tenantctl", "tenant", "s"], ["show", "set", "suspend"]),
        (["tenantctl", "tenant", "set", "acme", "--max-t"], ["--max-tokens-per-request"]),
        (["tenantctl", "tenant", "set", "--priority", "h"], ["high"]),
        (["tenantctl", "tenant", "set", "--priority", "=", "l"], ["low"]),
        (["tenantctl", "tenant", "set", "--priority", "="], ["high", "standard", "low"]),
        (["tenantctl", "invoice", "--month", "l"], ["last"]),
        (["tenantctl", "invoice", "--format", ""], ["table", "json", "csv", "html", "md", "pdf"]),
        (["tenantctl", "export", "--format", ""], ["focus"]),
        (["tenantctl", "audit", "export", "--format", ""], ["jsonl", "csv"]),
        (["tenantctl", "invoice", "v"], ["verify"]),
        (["tenantctl", "completion", ""], ["bash", "zsh", "fish"]),
        (["tenantctl", "completion", "bash", ""], []),
        (["tenantctl", "run", "--temperature", ""], []),
        (["tenantctl", "run", "status", "--j"], ["--json"]),
        (["tenantctl", "init", "--model", "README"], ["README.md"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_completes_commands_options_values_and_files(words: list[str], offered: list[str]) -> None:
    assert complete(*words) == offered


@pytest.mark.usefixtures("on_path")
def test_bash_completes_the_names_of_tenants(daemon: FakeDaemon) -> None:
    daemon.add("acme")
    daemon.add("globex")
    assert complete("tenantctl", "tenant", "show", "") == ["acme", "globex"]
    assert complete("tenantctl", "run", "--tenant", "g") == ["globex"]


def test_names_are_silently_none_without_a_daemon(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("broken")
    result = cli("_tenants")
    assert (result.exit_code, result.output) == (0, "")


def test_the_hidden_command_stays_hidden() -> None:
    assert "_tenants" not in [c.path[-1] for c in TREE.walk() if c.path]


def test_an_option_that_means_two_things_is_found() -> None:
    flag = Command(("a",), "", [Option(("--x",), "", None, False)], [])
    valued = Command(("b",), "", [Option(("--x",), "", Value("N"), False)], [])
    with pytest.raises(AssertionError, match="--x"):
        _check_options_are_alike(Command((), "", [], [], [flag, valued]))
