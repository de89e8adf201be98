"""What the doctor makes of what it sees; nothing here needs a daemon."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket as sockets
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenantctl.health import (
    adapter_check,
    build_check,
    config_check,
    daemon_check,
    disk_check,
    isolation_age,
    ledger_check,
    listener_check,
    memory_check,
    model_check,
    socket_check,
    state_check,
)
from tenantctl.health.all_checks import Check, run_all
from tenantctl.health.build_check import Machine
from tenantctl.health.kernel_locks import write_locks
from tenantctl.health.scene import Scene, look_around
from tenantctl.health.verdicts import Finding, Level, ok, worst
from tenantd.clock import now_micros
from tenantd.config import Config
from tenantd.domain import Tenant
from tenantd.ledger.glance import glance
from tenantd.ledger.ledger import Ledger
from tenantd.tenancy.tenants import add_tenant
from tests.support.tiny_gguf import write_tiny_gguf

GIB = 1 << 30


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level.value for finding in findings]


def only(findings: list[Finding]) -> tuple[str, str, str]:
    (finding,) = findings
    assert finding.level is Level.OK or finding.cure
    return finding.level.value, finding.what, finding.cure


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Nothing is there yet: no file, no daemon, no ledger."""
    return Scene(
        config_path=tmp_path / "config.toml",
        has_file=False,
        config=None,
        mistakes=(),
        warnings=(),
        socket=tmp_path / "run" / "s",
        state_dir=tmp_path / "state",
        status=None,
        is_running=False,
        trouble="",
    )


# ---- configuration -------------------------------------------------------------------------------------------------


def configured(tmp_path: Path, text: str) -> Scene:
    (tmp_path / "config.toml").write_text(text)
    return look_around(tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("[engine]\nslotz = 3", "engine.slotz: unknown key", "did you mean slots?"),
        ("[engin]\nslots = 3", "engin: unknown key", "did you mean engine?"),
        ("[engine]\ntarget_step_ms = 3", "engine.target_step_ms: unknown key", "it belongs in the table [scheduler]"),
        ("[log]\nslotz = 3", "log.slotz: unknown key", "did you mean slots, in the table [engine]?"),
        ("slots = 3", "slots: unknown key", "it belongs in the table [engine]"),
        ("[scheduler]\nhalf_lives = 3", "scheduler.half_lives: unknown key", "did you mean half_life_s?"),
        (
            '[[server.listen]]\naddress = "127.0.0.1:1"\norigin = []',
            "server.listen, entry 1: origin: unknown key",
            "origins?",
        ),
        ("[engine]\nslots = 0", "engine.slots = 0: must be at least 1", "edit "),
        ("[engine", "not valid TOML", "edit "),
    ],
)
def test_a_wrong_configuration_is_told_with_what_was_meant(tmp_path: Path, text: str, what: str, cure: str) -> None:
    level, found, todo = only(config_check.check(configured(tmp_path, text)))
    assert level == "fail" and what in found and cure in todo


def test_a_configuration_may_be_missing_outdated_or_readable_by_all(tmp_path: Path, scene: Scene) -> None:
    assert only(config_check.check(scene))[0::2] == ("warn", "tenantctl init")
    outdated = configured(tmp_path, '[engine]\ngrammar_timeout_s = 3\n[alerts]\nurl = "https://example.org/?token"')
    old, read = config_check.check(outdated)
    assert old.level is Level.WARN and "grammar_timeout_s is no longer used" in old.what
    assert read.cure == f"chmod o-r {tmp_path / 'config.toml'}" and "token" not in str(outdated.warnings)
    assert only(config_check.check(configured(tmp_path, "")))[0] == "ok"


# ---- daemon and socket ---------------------------------------------------------------------------------------------

STATUS: dict[str, Any] = {
    "version": "1",
    "pid": 7,
    "uptime_s": 3600,
    "state": "ready",
    "reason": "",
    "engine_restarts": 0,
    "ledger": {"healthy": True, "trouble": ""},
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, ["ok"]),
        ({"engine_restarts": 2}, ["ok", "warn"]),
        ({"state": "loading"}, ["warn"]),
        ({"state": "failed", "reason": "no model; choose one"}, ["fail"]),
    ],
)
def test_the_state_of_the_daemon(scene: Scene, change: dict[str, Any], found: list[str]) -> None:
    assert levels(daemon_check.check(replace(scene, is_running=True, status=STATUS | change))) == found


def test_a_daemon_that_is_silent_or_does_not_run(scene: Scene) -> None:
    assert only(daemon_check.check(scene)) == ("warn", "is not running", "tenantctl serve")
    assert only(daemon_check.check(replace(scene, is_running=True, trouble="no")))[0] == "fail"


def test_what_is_in_the_place_of_the_socket(scene: Scene) -> None:
    assert only(socket_check.check(scene))[0] == "ok"
    scene.socket.parent.mkdir(mode=0o700)
    assert only(socket_check.check(scene))[0] == "ok"
    scene.socket.write_text("")
    assert "is not a socket" in only(socket_check.check(scene))[1]
    scene.socket.unlink()
    with closing(sockets.socket(sockets.AF_UNIX)) as listener:
        listener.bind(str(scene.socket))
    level, what, cure = only(socket_check.check(scene))
    assert (level, cure) == ("warn", "tenantctl serve replaces it") and "nothing listens" in what
    strict = replace(scene, is_running=True, config=Config())
    scene.socket.chmod(0o600)
    assert only(socket_check.check(strict))[0::2] == ("warn", "restart the daemon to apply it")
    scene.socket.chmod(0o660)
    assert only(socket_check.check(strict))[0] == "ok"
    scene.socket.parent.chmod(0o777)
    assert socket_check.check(scene)[0].cure == f"chmod o-w {scene.socket.parent}"
    assert "longer than" in only(socket_check.check(replace(scene, socket=scene.socket / ("x" * 100))))[1]


def test_an_open_state_folder_and_a_daemon_that_listens_elsewhere(scene: Scene) -> None:
    assert only(state_check.check(scene))[0] == "ok"
    scene.state_dir.mkdir(mode=0o700)
    assert only(state_check.check(scene))[0] == "ok"
    with (scene.state_dir / state_check.LOCK_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        level, what, cure = only(state_check.check(scene))
        assert level == "fail" and f"pid {os.getpid()}" in what and f"kill {os.getpid()}" in cure
    scene.state_dir.chmod(0o770)
    assert only(state_check.check(scene))[0::2] == ("fail", f"chmod go-w {scene.state_dir}")


def test_a_listener_without_encryption_or_with_a_bad_certificate(tmp_path: Path, scene: Scene) -> None:
    assert listener_check.check(scene) == []
    text = '[[server.listen]]\naddress = "127.0.0.1:1"\n[[server.listen]]\naddress = "0.0.0.0:2"\nplaintext = true\n'
    text += f'[[server.listen]]\naddress = "0.0.0.0:3"\ncert = "{tmp_path}/c"\nkey = "{tmp_path}/k"'
    findings = listener_check.check(configured(tmp_path, text))
    assert levels(findings) == ["warn", "fail"] and "cannot read" in findings[1].what


# ---- the machine ---------------------------------------------------------------------------------------------------

CPU = Machine("0.3", "b1", ("CPU",), False, (), "", (), None, False)


@pytest.mark.parametrize(
    ("change", "found", "cure"),
    [
        ({}, ["ok"], ""),
        ({"device_files": ("nvidia0",)}, ["warn", "warn"], "-DGGML_CUDA=on"),
        ({"tool": "H200, driver 1", "tool_works": True}, ["warn", "ok"], "-DGGML_CUDA=on"),
        ({"tool": "no devices", "tool_works": False}, ["ok", "warn"], ""),
        ({"can_offload": True}, ["warn"], "driver"),
        ({"can_offload": True, "device_files": ("nvidia0",)}, ["warn", "warn"], "/dev/nvidia"),
        (
            {"can_offload": True, "gpus": ("H200",), "device_files": ("nvidia0",), "tool": "x", "tool_works": True},
            ["ok", "ok"],
            "",
        ),
        ({"trouble": "ended by SIGILL"}, ["fail"], "--force-reinstall"),
    ],
)
def test_the_build_of_llama_cpp(change: dict[str, Any], found: list[str], cure: str) -> None:
    findings = build_check.judge(CPU._replace(**change))
    assert levels(findings) == found and cure in findings[0].cure


def test_this_machine_has_a_build_that_runs(scene: Scene) -> None:
    assert "CPU" in build_check.check(scene)[0].what


def test_memory_by_the_plan_of_the_daemon(tmp_path: Path, scene: Scene) -> None:
    assert only(memory_check.check(scene))[0] == "ok"
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    fits = configured(tmp_path, f'[model]\npath = "{model}"\n[engine]\nslots = 3')
    level, what, _ = only(memory_check.check(fits))
    assert level == "ok" and what.startswith("3 slots of 2048 tokens need ")
    large = configured(
        tmp_path, f'[model]\npath = "{model}"\n[engine]\nslots = 2\n[cache]\ndefault = "on"\nhost_bytes = {1 << 44}'
    )
    level, what, _ = only(memory_check.check(large))
    assert level == "fail" and "cached prompts" in what
    refusal = "x.gguf needs 9 MiB (5 weights, 4 KV cache) but 3 MiB are free: lower engine.slots"
    assert memory_check.too_small(refusal)[2:] == (refusal.partition(":")[0], "lower engine.slots")
    engine = {"slots": 1, "context_tokens": 2, "device": "CPU", "swap_bytes": GIB, "cache_bytes": 0}
    assert memory_check.judge_loaded(engine, 2 * GIB, 4 * GIB).level is Level.OK
    assert memory_check.judge_loaded(engine, GIB // 2, 4 * GIB).level is Level.WARN


@pytest.mark.parametrize(
    ("free", "files", "read_only", "level"),
    [
        (50 * GIB, None, False, "ok"),
        (50 * GIB, 3, False, "fail"),
        (50 * GIB, 3000, True, "fail"),
        (GIB // 2, None, False, "warn"),
        (1 << 20, None, False, "fail"),
    ],
)
def test_room_on_the_disk(tmp_path: Path, free: int, files: int | None, read_only: bool, level: str) -> None:
    found = disk_check.judge(tmp_path, free_bytes=free, total_bytes=100 * GIB, free_files=files, is_read_only=read_only)
    assert found.level.value == level and bool(found.cure) == (level != "ok")


def test_the_disk_of_a_folder_that_is_not_there_yet(scene: Scene) -> None:
    (found,) = disk_check.check(scene)
    assert str(scene.state_dir.parent) in found.what


def test_the_model_that_is_configured(tmp_path: Path, scene: Scene) -> None:
    assert model_check.check(scene) == []
    assert only(model_check.check(configured(tmp_path, "")))[0] == "fail"
    model = write_tiny_gguf(tmp_path / "tiny.gguf", chat_template=None)
    own = configured(tmp_path, f'[model]\npath = "{model}"\n[embeddings]\nmodel = "{tmp_path}/none.gguf"')
    findings = model_check.check(own)
    assert levels(findings) == ["ok", "warn", "fail"] and "no chat template" in findings[1].what
    missing = configured(tmp_path, f'[model]\npath = "{tmp_path}/none.gguf"')
    assert only(model_check.check(missing))[0] == "fail"


# ---- the ledger ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(scene: Scene) -> Path:
    """A new one that nobody has open."""
    scene.state_dir.mkdir(mode=0o700)
    path = scene.state_dir / "ledger.db"

    async def make() -> None:
        opened = Ledger.open(path, Config().billing, now_micros)
        await opened.write(lambda conn: add_tenant(conn, Tenant(name="acme", adapter="/none.gguf", created_micros=1)))
        await opened.close()

    asyncio.run(make())
    return path


def files(folder: Path) -> dict[str, tuple[float, bytes]]:
    return {path.name: (path.stat().st_mtime, path.read_bytes()) for path in folder.iterdir()}


def test_a_ledger_that_is_well_is_looked_at_and_left_alone(scene: Scene, ledger: Path) -> None:
    before = files(scene.state_dir)
    assert levels(ledger_check.check(scene)) == ["ok", "ok"]
    assert only(adapter_check.check(scene))[1].startswith("tenant acme: /none.gguf")
    assert files(scene.state_dir) == before
    ledger.chmod(0o644)
    assert ledger_check.check(scene)[0].cure == f"chmod 600 {ledger}"


def test_a_ledger_that_is_missing_damaged_newer_or_another_database(scene: Scene, ledger: Path) -> None:
    whole = ledger.read_bytes()
    with closing(sqlite3.connect(ledger)) as conn:
        conn.execute("PRAGMA user_version = 99")
    assert "newer tenantd (schema 99" in ledger_check.check(scene)[0].what
    with closing(sqlite3.connect(ledger)) as conn:
        conn.execute("PRAGMA application_id = 1")
    assert "not one of tenantd" in ledger_check.check(scene)[0].what
    ledger.write_bytes(whole[:100] + os.urandom(len(whole) - 100))
    damaged, clock = ledger_check.check(scene)
    assert damaged.level is Level.FAIL and "damaged" in damaged.what and "restore a backup" in damaged.what
    assert clock.level is Level.OK and adapter_check.check(scene) == []
    ledger.unlink()
    assert levels(ledger_check.check(scene)) == ["ok", "ok"]
    os.mkfifo(ledger)
    assert "is not a file" in ledger_check.check(scene)[0].what


def test_a_ledger_that_another_program_keeps_locked(scene: Scene, ledger: Path) -> None:
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE'); print(); input()"
    command = [sys.executable, "-c", script, str(ledger)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        found = [one for one in ledger_check.check(scene) if one.level is Level.FAIL]
        other.stdin.close()
    assert [f"process {other.pid} (" in one.what for one in found] == [True]


def test_locks_are_those_of_the_file_on_its_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = (tmp_path / "file").stat()
    disk = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    (tmp_path / "locks").write_text(
        f"1: FLOCK  ADVISORY  WRITE 11 {disk}:{found.st_ino} 0 EOF\n"
        f"2: POSIX  ADVISORY  WRITE 12 {disk}:{found.st_ino} 120 120\n"
        f"2: -> POSIX  ADVISORY  WRITE 13 {disk}:{found.st_ino} 120 120\n"
        f"3: POSIX  ADVISORY  READ 14 {disk}:{found.st_ino} 123 123\n"
        f"4: OFDLCK ADVISORY  WRITE -1 {disk}:{found.st_ino} 0 EOF\n"
        f"5: FLOCK  ADVISORY  WRITE 15 {disk}:{found.st_ino + 1} 0 EOF\n"
    )
    locks = write_locks(tmp_path / "file", tmp_path / "locks")
    assert [(lock.pid, lock.is_whole) for lock in locks] == [(11, True), (12, False)]
    assert write_locks(tmp_path / "none") == write_locks(tmp_path / "file", tmp_path / "none") == []


def test_a_large_ledger_is_looked_at_for_a_while_only(ledger: Path) -> None:
    assert glance(ledger, 10).is_whole and not glance(ledger, 0).damage


def test_what_the_daemon_says_of_its_ledger_counts(scene: Scene) -> None:
    status = STATUS | {"ledger": {"healthy": False, "trouble": "no space left; free some space"}}
    level, what, cure = only(ledger_check.check(replace(scene, is_running=True, status=status)))
    assert (level, what, cure) == ("fail", "cannot be written: no space left", "free some space")


def test_a_failure_counts_more_than_a_warning() -> None:
    findings = [ok("a", "b"), Finding("a", Level.FAIL, "b", "c"), Finding("a", Level.WARN, "b", "c")]
    assert worst(findings) is Level.FAIL and worst(findings[::2]) is Level.WARN and worst([]) is Level.OK


def test_the_last_check_of_isolation() -> None:
    last = {"result": "held", "quick": True, "checked_micros": 10**15}
    now_s = 1e9 + 3600
    assert isolation_age.judge(last, now_s).level is Level.OK
    assert isolation_age.judge(last, now_s + 31 * 86_400).level is Level.WARN
    assert isolation_age.judge(last | {"result": "inconclusive"}, now_s).level is Level.WARN
    assert isolation_age.judge(last | {"result": "failed"}, now_s).level is Level.FAIL
    assert isolation_age.judge(None, now_s).level is Level.WARN


def test_adapters_of_tenants_that_are_missing() -> None:
    found = [("acme", "/a"), ("globex", "/b"), ("initech", "/b")]
    assert adapter_check.judge([], lambda path: "") == []
    assert only(adapter_check.judge(found, lambda path: ""))[1] == "2 adapters of 3 tenants"
    findings = adapter_check.judge(found, lambda path: "/b: no such file" if path == "/b" else "")
    assert [finding.what for finding in findings] == [
        f"tenant {name}: /b: no such file" for name in ("globex", "initech")
    ]
    assert len(adapter_check.judge([(f"t{n}", "/b") for n in range(50)], lambda path: "bad")) == 11


def test_a_clock_that_is_behind_the_ledger_or_not_set() -> None:
    assert ledger_check.judge_clock(1.8e9, 1.8e9).level is Level.OK
    late = ledger_check.judge_clock(1.8e9, 1.8e9 + 7200)
    assert late.level is Level.FAIL and "2 h before the newest row" in late.what
    assert ledger_check.judge_clock(3600, 0).level is Level.FAIL


# ---- all together --------------------------------------------------------------------------------------------------


def test_a_check_that_hangs_or_fails_itself_holds_up_no_other(scene: Scene) -> None:
    never = threading.Event()

    def breaks(_: Scene) -> list[Finding]:
        raise ValueError("a bug")

    def hangs(_: Scene) -> list[Finding]:
        never.wait()
        return []

    def refused(_: Scene) -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/x")

    checks = (Check("a", hangs), Check("b", breaks), Check("c", refused), Check("d", lambda _: [ok("d", "well")]))
    found = dict(run_all(scene, checks, 3))  # time enough for the others on a busy machine
    never.set()
    assert [only(found[name])[0] for name in "abcd"] == ["fail", "fail", "fail", "ok"]
    assert "not done within 3 s" in found["a"][0].what and "a bug" in found["b"][0].what
    assert "cannot look at /x: Permission denied" in found["c"][0].what
