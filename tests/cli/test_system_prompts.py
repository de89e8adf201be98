"""`--system` and `--system-completions` of `tenantctl tenant add` and `set`, and what `show` shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon

POLICY = "Be  kind.\nNever name a price, and never mention Zanzibar."


def test_text_is_sent_as_it_is_and_a_file_as_it_is_read(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    path = tmp_path / "policy.txt"
    path.write_text(POLICY)
    assert cli("tenant", "add", "acme", "--system", POLICY).exit_code == 0
    assert cli("tenant", "set", "acme", "--system", f"@{path}", "--system-completions").exit_code == 0
    assert cli("tenant", "set", "acme", "--system", "none", "--no-system-completions").exit_code == 0
    assert [seen[3] for seen in daemon.seen] == [
        {"name": "acme", "system_prompt": POLICY},
        {"system_prompt": POLICY, "system_in_completions": True},
        {"system_prompt": "", "system_in_completions": False},
    ]


@pytest.mark.parametrize("value", ["", " ", "\n", "@/dev/null"])
@pytest.mark.parametrize("command", ["add", "set"])
def test_an_empty_one_is_refused_so_that_a_missing_file_does_not_remove_it(
    command: str, value: str, cli: Cli, daemon: FakeDaemon
) -> None:
    result = cli("tenant", command, "acme", "--system", value)
    assert result.exit_code == 2 and "pass none to remove" in result.stderr
    assert daemon.seen == []


def test_text_that_names_a_file_is_sent_with_a_hint(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.txt").write_text(POLICY)
    result = cli("tenant", "add", "acme", "--system", "policy.txt")
    assert result.exit_code == 0 and "did you mean --system @policy.txt?" in result.stderr
    assert daemon.seen[-1][3]["system_prompt"] == "policy.txt"
    assert "did you mean" not in cli("tenant", "add", "other", "--system", "policy.md").stderr


def test_show_has_its_length_and_beginning_and_json_has_all(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme")
    assert "system prompt           -\n" in cli("tenant", "show", "acme").stdout
    daemon.tenants["acme"] |= {"system_prompt": POLICY, "system_in_completions": True}
    shown = cli("tenant", "show", "acme").stdout
    assert "system prompt           57 bytes: Be kind. Never name a price, and never m…\n" in shown
    assert "goes before             chats and plain prompts\n" in shown and "Zanzibar" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert json.loads(cli("tenant", "show", "acme", "--json").stdout)["tenant"]["system_prompt"] == POLICY


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read"),
        (b"a\xff", "is not UTF-8: byte 0xff at offset 1"),
        (b"a" * 65_537, "has more than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_one_is_a_usage_error(
    content: bytes | None, reason: str, cli: Cli, daemon: FakeDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "policy"
    if content is not None:
        path.write_bytes(content)
    result = cli("tenant", "set", "acme", "--system", f"@{path}", env={"COLUMNS": "500"})
    assert result.exit_code == 2 and reason in result.stderr
    assert daemon.seen == []


@pytest.mark.parametrize("value", ["a\udcff", "@", "@a\0b"])
def test_an_argument_that_cannot_be_one_is_a_usage_error(value: str, cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("tenant", "set", "acme", "--system", value)
    assert result.exit_code == 2
    assert daemon.seen == []
