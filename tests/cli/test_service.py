"""Units of systemd: what is in them, and what `tenantctl service` does with them."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tenantctl.installed import after_init, find_socket, how_to_start
from tenantctl.service import accounts, planning, setting_up
from tenantctl.service.unit_text import SERVICE, SOCKET, Plan, service_text, socket_text
from tenantd import paths
from tests.cli.conftest import Cli

ANALYZE = shutil.which("systemd-analyze")
MACHINES = Plan(
    is_machines=True,
    command=("/bin/true",),
    config=Path("/etc/tenantd/config.toml"),
    socket=paths.SYSTEM_SOCKET,
    state_dir=paths.SYSTEM_STATE_DIR,
    socket_mode="0660",
    socket_group="root",
    low_ports=("127.0.0.1:443",),
    in_homes=(Path("/home/alice/my models/a:b.gguf"),),
    written=(Path("/mnt/other disk"),),
)
WITH_GPU = replace(MACHINES, devices=("char-nvidia*", "char-drm"), groups=("video",))
USERS = replace(
    MACHINES, is_machines=False, socket=Path("/run/user/1/100% $x/s"), low_ports=(), in_homes=(), written=()
)
EXPOSED = (("PrivateDevices", "yes"), ("MemoryDenyWriteExecute", "yes"))
"""What a service without a GPU has in addition."""
HARDENED = (
    ("User", "tenantd"),
    ("NoNewPrivileges", "yes"),
    ("CapabilityBoundingSet", ""),
    ("ProtectSystem", "strict"),
    ("ProtectHome", "tmpfs"),
    ("RestrictNamespaces", "yes"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallFilter", "~@privileged @resources"),
    ("UMask", "0077"),
)


def settings(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def exposure(text: str, folder: Path) -> float:
    """What systemd-analyze says of a service, from 0 to 10; where it is missing, what it said when this was written, as
    long as the hardening is there."""
    if ANALYZE is None:
        assert set(HARDENED) <= set(settings(text))
        return 1.5
    (folder / SERVICE).write_text(text)
    command = [ANALYZE, "security", "--offline=true", "--no-pager", folder / SERVICE]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stdout
    return float(said.partition("Overall exposure level for")[2].partition(": ")[2].split()[0])


@pytest.mark.parametrize(("plan", "most"), [(MACHINES, 2.5), (WITH_GPU, 3.5)], ids=["cpu", "gpu"])
def test_the_service_of_the_machine_is_hardened(plan: Plan, most: float, tmp_path: Path) -> None:
    text = service_text(plan)
    assert exposure(text, tmp_path) <= most
    found = settings(text)
    assert set(HARDENED) <= set(found)
    assert set(EXPOSED) <= set(found) or plan.devices
    # who is at the other end of the socket would be hidden
    assert not {"PrivateUsers", "DynamicUser"} & {name for name, _ in found}


@pytest.mark.parametrize("plan", [MACHINES, WITH_GPU, USERS], ids=["cpu", "gpu", "user"])
def test_systemd_understands_the_units(plan: Plan, tmp_path: Path) -> None:
    texts = {SOCKET: socket_text(plan), SERVICE: service_text(plan)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert text.startswith("# ") and ("\n[Install]\nWantedBy=" in text)
    assert ("OOMPolicy", "continue") in settings(texts[SERVICE]), "an engine that is killed does not end the daemon"
    if ANALYZE is not None:
        which = [] if plan.is_machines else ["--user"]
        command = [ANALYZE, *which, "verify", *(tmp_path / name for name in texts)]
        environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:", "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_names_are_written_as_systemd_reads_them() -> None:
    found = settings(service_text(replace(USERS, command=("/opt/a b/$HOME/tenantd",), config=Path('/x/"y"'))))
    assert ("ExecStart", '"/opt/a b/$$HOME/tenantd" --config "/x/\\"y\\""') in found
    assert '"TENANTD_SOCKET=/run/user/1/100%% $x/s"' in dict(found)["Environment"]
    assert ("ListenStream", "/run/user/1/100%% $x/s") in settings(socket_text(USERS))
    found = settings(service_text(MACHINES))
    assert ("BindReadOnlyPaths", '"/home/alice/my models/a\\\\:b.gguf"') in found
    assert ("ReadWritePaths", '"-/mnt/other disk"') in found
    with pytest.raises(Exception, match="cannot hold the name"):
        service_text(replace(USERS, config=Path("/x\nExecStartPre=/bin/sh")))


# ---- commands ------------------------------------------------------------------------------------------------------

SYSTEMCTL = """\
#!/bin/sh
echo "$*" >> {log}
case "$*" in
    *is-active*) cat {log}.active ;;
    *show*) printf 'SubState=x\\nActiveState=%s\\nMainPID=7\\nNRestarts=0\\n' "$(cat {log}.active)" ;;
esac
"""
Calls = Callable[[], list[str]]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A systemd that does nothing, and what it was told since the last time."""
    programs, log = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL.format(log=log))
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(setting_up, "BOOTED", tmp_path)
    (tmp_path / "config.toml").write_text('[engine]\nbackend = "fake"\n')
    Path(f"{log}.active").write_text("inactive\n")

    def calls() -> list[str]:
        text = log.read_text() if log.exists() else ""
        log.write_text("")
        return [line for line in text.splitlines() if not line.startswith("--user is-active")]

    return calls


def test_a_service_is_installed_once(cli: Cli, systemd: Calls, tmp_path: Path) -> None:
    unit = tmp_path / "config" / "systemd" / "user" / SERVICE
    shown = cli("service", "install", "--user", "--dry-run")
    assert (shown.exit_code, systemd(), unit.exists()) == (0, [], False)
    assert cli("service", "status").exit_code == 1

    done = cli("service", "install", "--user")
    assert done.exit_code == 0, done.stderr
    assert unit.read_text() in shown.stdout
    assert f"TENANTD_STATE_DIR={tmp_path / 'state'}" in unit.read_text()
    units = f"{SOCKET} {SERVICE}"
    told = ["daemon-reload", f"stop {units}", f"reset-failed {units}", f"enable --quiet {units}", f"start {units}"]
    assert systemd() == [f"--user {each}" for each in told]
    assert cli("service", "status").exit_code == 3

    (tmp_path / "calls.active").write_text("active\n")
    assert cli("service", "status").exit_code == 0
    systemd()
    assert "have not changed" in cli("service", "install", "--user").stderr
    assert systemd() == []

    assert cli("service", "uninstall").exit_code == 0
    assert systemd() == [f"--user disable --quiet --now {SERVICE} {SOCKET}", "--user daemon-reload"]
    assert not unit.exists()


def test_nothing_is_written_where_a_unit_is_a_link(cli: Cli, systemd: Calls, tmp_path: Path) -> None:
    unit, other = tmp_path / "config" / "systemd" / "user" / SERVICE, tmp_path / "other"
    unit.parent.mkdir(parents=True)
    other.write_bytes(b"\xff")
    other.chmod(0o600)
    unit.symlink_to(other)
    refused = cli("service", "install", "--user")
    assert refused.exit_code and "systemctl unmask" in refused.stderr
    assert (other.read_bytes(), other.stat().st_mode & 0o777, systemd()) == (b"\xff", 0o600, [])
    unit.unlink()
    unit.write_bytes(b"\xff")  # whatever was there
    assert cli("service", "install", "--user").exit_code == 0
    assert unit.stat().st_mode & 0o777 == 0o644 and "[Service]" in unit.read_text()


def test_root_without_a_configuration_of_the_machine_is_told_of_its_own(
    cli: Cli, systemd: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", tmp_path / "etc" / "config.toml")
    said = cli("service", "install", "--system").stderr
    assert (
        f"tenantctl init --config {tmp_path}/etc/config.toml" in said and f"{tmp_path}/config.toml: tenantctl" in said
    )
    assert "service install --user" in said and systemd() == []
    (tmp_path / "config.toml").unlink()
    said = cli("service", "install", "--system").stderr
    assert f"tenantctl init --config {tmp_path}/etc/config.toml" in said and "--user" not in said


def test_a_daemon_that_runs_already_is_not_got_in_the_way_of(cli: Cli, systemd: Calls, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        (tmp_path / "state").mkdir()
        listening.bind(str(tmp_path / "state" / "tenantd.sock"))
        listening.listen()
        done = cli("service", "install", "--user")
    assert "stop it first" in done.stderr and systemd() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\npath = 'm.gguf'\n", "must be an absolute path"),
        ("[model]\npath = '/nowhere/m.gguf'\n", "no such file: /nowhere/m.gguf"),
        ("[engine]\nbackend = 'fake'\n[server]\nsocket = '/x/s'\n", "leave out server.socket (/x/s)"),
        ("[engine]\nbackend = 'fake'\n[ledger]\nstate_dir = '/x'\n", "leave out ledger.state_dir (/x)"),
    ],
)
def test_what_a_service_cannot_use_is_said(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.delenv("TENANTD_STATE_DIR")
    (tmp_path / "config.toml").write_text(text)
    done = cli("service", "install", "--system", "--dry-run", "--config", str(tmp_path / "config.toml"))
    assert (done.exit_code, done.stdout) == (78, "") and said in done.stderr


def test_what_is_in_folders_of_users_stays_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "HOMES", (tmp_path,))
    (tmp_path / "m.gguf").touch()
    (tmp_path / "c.toml").write_text(
        f"[model]\npath = '{tmp_path}/m.gguf'\n[[server.listen]]\naddress = '0.0.0.0:443'\n"
        f"cert = '{tmp_path}/tls/cert'\nkey = '{tmp_path}/tls/key'\n[[server.listen]]\naddress = '127.0.0.1:8080'\n"
    )
    monkeypatch.delenv("TENANTD_STATE_DIR")
    plan = planning.make_plan(is_machines=True, config=tmp_path / "c.toml", with_gpu=False)
    assert [path.relative_to(tmp_path).as_posix() for path in plan.in_homes] == [
        *("c.toml", "m.gguf", "tls/cert", "tls/key")
    ]
    assert (plan.low_ports, plan.devices) == (("0.0.0.0:443",), ())


def test_the_log_is_that_of_the_journal(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _, arguments: called.append(arguments))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "SYSTEM_UNITS", tmp_path)
    missing = "tenantd is not installed as a service; `tenantctl serve` logs to its terminal\n"
    assert cli("service", "logs", "--user", "--follow", "--since", "-1h").stderr == missing
    (tmp_path / SERVICE).touch()
    monkeypatch.setattr(setting_up, "BOOTED", tmp_path / "nowhere")
    assert "systemd is not running here" in cli("service", "logs", "--system", "--lines", "7").stderr
    monkeypatch.setattr(setting_up, "BOOTED", tmp_path)
    assert cli("service", "logs", "--system", "--lines", "7").stderr == ""
    assert called == [
        ["journalctl", "--user-unit=tenantd.service", "--lines=100", "--follow", "--since=-1h"],
        *[["journalctl", "--unit=tenantd.service", "--lines=7"]] * 2,
    ]


@pytest.mark.parametrize(
    ("mode", "gid", "readable"),
    [(0o600, 7, False), (0o640, 7, True), (0o640, 8, False), (0o604, 7, False), (0o644, 8, True)],
)
def test_a_configuration_that_the_service_cannot_read_is_told(mode: int, gid: int, readable: bool) -> None:
    found = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, 1000, gid, 0, 0, 0, 0))
    assert accounts.is_readable(found, 7) is readable


# ---- which daemon is meant -----------------------------------------------------------------------------------------


def test_a_daemon_that_is_installed_is_found_and_no_second_one_is_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    for name in ("TENANTD_CONFIG", "TENANTD_STATE_DIR"):
        monkeypatch.delenv(name)
    for name in ("CONFIG", "STATE", "RUNTIME"):
        monkeypatch.setenv(f"XDG_{name}_HOME" if name != "RUNTIME" else "XDG_RUNTIME_DIR", str(tmp_path / name))
    own, machines = tmp_path / "RUNTIME" / "tenantd" / "tenantd.sock", tmp_path / "system" / "tenantd.sock"
    monkeypatch.setattr(paths, "SYSTEM_SOCKET", machines)
    monkeypatch.setattr(paths, "SYSTEM_UNITS", tmp_path / "units")
    assert find_socket(None) == own
    here, _, elsewhere = how_to_start(own).partition("; ")
    assert here == "write a configuration with tenantctl init, then start one with: tenantctl serve"
    assert elsewhere == "for a daemon on another machine, pass --url URL or set TENANTD_URL"
    paths.default_config_path().parent.mkdir(parents=True)
    paths.default_config_path().touch()
    assert how_to_start(own) == "start one with: tenantctl serve"
    paths.default_config_path().unlink()

    (tmp_path / "units").mkdir()
    (tmp_path / "units" / SERVICE).touch()  # the machine's, stopped
    assert find_socket(None) == machines
    assert "start it with: systemctl start tenantd" in cli("tenant", "list").stderr
    assert "tenantd is a service on this machine; start it with: systemctl start tenantd" in cli("serve").stderr
    assert after_init(None).startswith("tenantd is a service on this machine")
    assert after_init(paths.SYSTEM_CONFIG) == "next: tenantctl service install --system"

    own_unit = paths.user_units() / SERVICE
    own_unit.parent.mkdir(parents=True)
    own_unit.touch()
    (tmp_path / "STATE" / "tenantd").mkdir(parents=True)
    (tmp_path / "STATE" / "tenantd" / "ledger.db").touch()  # and the user's own, stopped as well
    assert find_socket(None) == own
    assert "start it with: systemctl --user start tenantd" in cli("tenant", "list").stderr
    assert after_init(None) == "next: systemctl --user restart tenantd"
    own_unit.unlink()
    assert f"--socket {machines}" in cli("tenant", "list").stderr
