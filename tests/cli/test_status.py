from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.fake_generation import queued


def loading(progress: float) -> dict[str, object]:
    return {"status": "loading", "progress": progress, "reason": ""}


READY = {"status": "ready", "progress": 1.0, "reason": ""}


def test_status_shows_the_daemon_its_engine_and_its_tenants(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme", weight=2.0)
    result = cli("status")
    assert result.exit_code == 0
    assert "state            ready\n" in result.stdout
    assert "8 slots of 4096 tokens, 180 MiB of KV cache (f16)" in result.stdout
    assert "1 running, 3 paused, 2 waiting" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["acme", "active", "2", "standard", "1", "3", "2", "12.3", "-"]


@pytest.mark.parametrize(
    ("anchor", "text"),
    [
        ({"age_s": None}, "not written yet"),
        ({"age_s": 125.0}, "written 2 min ago"),
        ({"age_s": 5.0, "mismatches": 1}, "differs from what was anchored before: run tenantctl audit verify"),
        ({"trouble": "/a: No such file or directory"}, "failing: /a: No such file or directory"),
    ],
)
def test_status_says_how_the_anchor_of_the_audit_trail_does(
    cli: Cli, daemon: FakeDaemon, anchor: dict[str, object], text: str
) -> None:
    assert "audit anchor" not in cli("status").stdout
    daemon.anchor = {"age_s": None, "failures": 0, "mismatches": 0, "trouble": "", **anchor}
    assert text in " ".join(cli("status").stdout.split())


def test_status_says_how_full_the_cache_is_if_anybody_has_one(cli: Cli, daemon: FakeDaemon) -> None:
    for name in ("acme", "globex"):
        daemon.add(name)
    state = json.loads(cli("status", "--json").stdout)
    for tenants, used_bytes in ((0, 0), (1, 3 << 20)):
        cache = {"tenants": tenants, "used_bytes": used_bytes, "host_bytes": 1 << 30}
        daemon.answers["GET", "status"] = {**state, "cache": cache}
        shown = cli("status").stdout
        assert ("prefix cache     3 MiB of 1.00 GiB used, on for 1 of 2 tenants\n" in shown) == bool(tenants)
        assert ("prefix cache" in shown) == bool(tenants)


@pytest.mark.parametrize(("ranks", "name"), [(False, "embeddings"), (True, "ranking")])
def test_status_shows_the_model_for_texts(cli: Cli, daemon: FakeDaemon, ranks: bool, name: str) -> None:
    state = json.loads(cli("status", "--json").stdout)
    texts = {"model": "bert 33M F16", "ranks": ranks, "input_tokens": 512}
    daemon.answers["GET", "status"] = {**state, "engine": {**state["engine"], "embeddings": texts}}
    assert f"{name:<15}  by bert 33M F16, up to 512 tokens each\n" in cli("status").stdout


def test_status_says_who_has_no_queue(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.add("acme", limits={"max_queued": 0})
    assert "2 (no queue)" in cli("status").stdout.splitlines()[-1]


def test_status_shows_the_first_of_those_that_wait(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.queue = [queued(f"req_{n}", "") for n in range(11)]
    lines = cli("status").stdout.splitlines()
    assert lines[-11].split() == ["waiting", "request", "tenant", "position", "waited", "est.", "wait"]
    assert lines[-10].split() == ["req_0", "acme", "3", "1.5", "s", "8-20", "s"]
    assert lines[-1].startswith("req_9")


def test_status_as_json_is_the_daemons(cli: Cli, daemon: FakeDaemon) -> None:
    assert json.loads(cli("status", "--json").stdout)["engine"]["slots"] == 8


def test_status_shows_how_far_loading_is_without_an_engine(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.engine = None
    daemon.readiness = [loading(0.42)]
    assert "progress         42%" in cli("status").stdout


def test_status_says_why_the_engine_failed(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.readiness = [{"status": "failed", "progress": 0.0, "reason": "crashed 5 times"}]
    assert "crashed 5 times" in cli("status").stdout


def test_waiting_shows_progress_until_ready(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.readiness = [loading(0.11), loading(0.12), loading(0.55), READY]
    result = cli("status", "--wait", "20", "--json")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == ["loading the model 11%", "loading the model 55%"]
    assert json.loads(result.stdout)["state"] == "ready"


def test_waiting_ends_with_the_reason_it_is_not_ready(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.readiness = [{"status": "failed", "progress": 0.0, "reason": "crashed 5 times"}]
    result = cli("status", "--wait", "0.2")
    assert result.exit_code == 75
    assert "crashed 5 times" in result.stderr.splitlines()[-1]
    assert result.stdout == ""


def test_waiting_for_a_daemon_that_never_comes_ends_with_69(cli: Cli) -> None:
    result = cli("status", "--wait", "0.2")
    assert result.exit_code == 69
    assert "waiting for the daemon" in result.stderr
    assert "tenantctl serve" in result.stderr


@pytest.mark.parametrize("wait", ["-1", "nan", "soon"])
def test_an_absurd_wait_is_a_usage_error(cli: Cli, wait: str) -> None:
    assert cli("status", "--wait", wait).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["tenant", "list"], ["usage"], ["run", "--tenant", "acme", "x"], ["invoice"], ["cancel", "req_1"]],
    ids=" ".join,
)
def test_without_a_daemon_every_command_says_how_to_start_it(cli: Cli, tmp_path: Path, arguments: list[str]) -> None:
    result = cli("--socket", str(tmp_path / "none"), *arguments)
    assert result.exit_code == 69
    assert str(tmp_path / "none") in result.stderr
    assert "start one with: tenantctl serve" in result.stderr


def test_a_socket_nobody_listens_on_is_no_daemon(cli: Cli, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "s"))
    result = cli("--socket", str(tmp_path / "s"), "status")
    assert result.exit_code == 69


def test_a_path_too_long_for_a_socket_is_explained(cli: Cli) -> None:
    result = cli("--socket", "/tmp/" + "x" * 200, "status")
    assert result.exit_code == 69
    assert "too long" in result.stderr


def test_the_configuration_says_where_the_socket_is(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENANTD_SOCKET")
    (tmp_path / "config.toml").write_text(f'[server]\nsocket = "{daemon.socket}"\n')
    assert cli("status").exit_code == 0


def test_a_broken_configuration_is_a_warning_only(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("not toml")
    result = cli("status")
    assert result.exit_code == 69
    assert "warning" in result.stderr
    assert str(tmp_path / "state" / "tenantd.sock") in result.stderr
