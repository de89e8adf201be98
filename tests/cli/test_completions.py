from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from tenantctl.main import app
from tenantctl.shells import installing
from tenantctl.shells.scripts import FILES, script
from tenantctl.shells.tree import Command, Option, Value, command_tree, valued
from tenantd.errors import Forbidden
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
WRAPPER = """#!{}
from tenantctl import completing, main
completing.TIMEOUT_S = 60
main.main()
"""


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tenantctl` can be found by the shell, and has more time than a user would wait."""
    wrapper = tmp_path / "bin" / "tenantctl"
    wrapper.parent.mkdir()
    wrapper.write_text(WRAPPER.format(sys.executable))
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
        (["tenantctl", "requests", "--state", "c"], ["cancelled"]),
        (["tenantctl", "completion", ""], ["bash", "zsh", "fish"]),
        (["tenantctl", "completion", "bash", ""], []),
        (["tenantctl", "run", "--temperature", ""], []),
        (["tenantctl", "run", "status", "--j"], ["--json"]),
        (["tenantctl", "init", "--model", "README"], ["README.md"]),
        (["tenantctl", "run", "-f", "README"], ["README.md"]),
        (["tenantctl", "run", "-f", "README.md", "--ch"], ["--chat"]),
        (["tenantctl", "audit", "log", "-f", "README"], []),
        (["tenantctl", "audit", "log", "--foll"], ["--follow"]),
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


@pytest.mark.usefixtures("on_path")
def test_bash_completes_ids_of_keys_and_requests(daemon: FakeDaemon) -> None:
    daemon.add("acme")
    daemon.keys = [
        {"id": "key_live", "revoked_micros": None, "expires_micros": None},
        {"id": "key_gone", "revoked_micros": 1, "expires_micros": None},
        {"id": "key_past", "revoked_micros": None, "expires_micros": 1},
        {"id": "key_$(touch harm)", "revoked_micros": None, "expires_micros": None},
    ]
    assert set(complete("tenantctl", "key", "revoke", "")) == {"key_live"}
    assert set(complete("tenantctl", "cancel", "req")) == {"req_1"}
    assert set(complete("tenantctl", "cancel", "")) == {"req_1"}
    states = [path for _, path, _, _ in daemon.seen if path.startswith("requests")]
    assert states == [f"requests?state={state}&limit=200" for state in ("waiting", "running", "paused")] * 2


@pytest.mark.usefixtures("on_path")
def test_bash_completes_ids_of_requests_that_have_ended_as_tables_show_them(daemon: FakeDaemon) -> None:
    daemon.request = {"id": "req_0123456789abcdef0123456789abcdef"}
    for command in (["requests", "show"], ["audit", "log", "--request"]):
        assert complete("tenantctl", *command, "89") == ["89abcdef"]
    paths = [path for _, path, _, _ in daemon.seen if path.startswith("requests")]
    assert paths == ["requests?limit=200"] * 2


def test_without_a_daemon_there_is_silently_nothing_to_offer(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("broken")
    for name in ("_tenants", "_keys", "_requests", "_recent"):
        result = cli(name)
        assert (result.exit_code, result.output) == (0, "")


def test_who_does_not_administer_is_offered_what_is_their_own(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.add("acme")
    daemon.add("globex")
    monkeypatch.setenv("TENANTD_API_KEY", "td_key")
    assert cli("_tenants").output == "acme\nglobex\n"
    daemon.failure = Forbidden("only administrators")
    daemon.who = {"administers": False, "tenants": ["acme"]}
    daemon.answers["GET", "/v1/requests"] = {"requests": [{"id": "req_own"}]}
    assert cli("_tenants").output == "acme\n"
    assert cli("_keys").output == ""
    assert set(cli("_requests").output.split()) == {"req_own"}
    assert {headers.get("authorization") for _, _, headers, _ in daemon.seen} == {"Bearer td_key"}
    assert daemon.seen[-1][2]["x-tenant"] == "acme"


# ---- installing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "path", "said"),
    [
        ("bash", "data/bash-completion/completions/tenantctl", "bash-completion"),
        ("zsh", ".zfunc/_tenantctl", "fpath=("),
        ("fish", "config/fish/completions/tenantctl.fish", ""),
    ],
)
def test_a_script_is_installed_where_its_shell_looks(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str, path: str, said: str
) -> None:
    monkeypatch.setattr(installing, "BASH_COMPLETION", ())
    for name in ("BASH_COMPLETION_USER_DIR", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    own = {"HOME": tmp_path, "XDG_DATA_HOME": tmp_path / "data", "XDG_CONFIG_HOME": tmp_path / "config"}
    for name, folder in {**own, "SHELL": f"/usr/bin/{shell}"}.items():
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(os, "getppid", lambda: 0)  # not started from a shell
    done = cli("completion", "--install")
    assert done.exit_code == 0 and done.stdout == "" and said in done.stderr, done.stderr
    assert (tmp_path / path).read_text("utf-8") == script(shell, TREE)
    assert f"start a new {shell}" in done.stderr
    (tmp_path / ".zshrc").write_text("fpath=(~/.zfunc $fpath)")
    again = cli("completion", shell, "--install").stderr
    assert "is up to date" in again and "start a new" not in again and "fpath" not in again


def test_an_unknown_shell_is_asked_about(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 0)
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    for arguments in (["completion"], ["completion", "--install"]):
        done = cli(*arguments)
        assert done.exit_code == 2 and "name your shell: bash, zsh, fish" in done.stderr


def test_the_hidden_command_stays_hidden() -> None:
    assert not [c.path[-1] for c in TREE.walk() if c.path and c.path[-1].startswith("_")]


def test_an_option_that_takes_a_value_in_one_command_only_is_told_apart() -> None:
    flag = Command(("a",), "", [Option(("--x",), "", None, False), Option(("--y",), "", Value("N"), False)], [])
    taker = Command(("b",), "", [Option(("--x",), "", Value("N"), False)], [])
    assert valued(Command((), "", [], [], [flag, taker])) == {"--x": [taker], "--y": None}
