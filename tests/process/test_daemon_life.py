"""The daemon's own life: what keeps it from starting, what it says, how it reloads and how it stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tenantd import lifecycle
from tenantd.config import Config
from tenantd.serving.service import Service
from tenantd.serving.stopping import StopClock
from tests.ledger.old.kit import ledger_of
from tests.ledger.test_old_ledgers import GROW
from tests.support.daemon import Daemon, wait_until
from tests.support.program import show_to_own_user
from tests.support.unreadable import UNREADABLE


def run_to_its_end(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and messages of a daemon that is not expected to serve."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TENANTD_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tenantd", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**clean, **environment},
        check=False,
    )
    return done.returncode, done.stderr


def log_has(daemon: Daemon, text: str) -> None:
    wait_until(lambda: text in daemon.log.read_text(), f"{text!r} in the log")


# ---- what keeps it from starting ---------------------------------------------------------------------------------


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    code, message = run_to_its_end("--config", str(tmp_path / "none.toml"))
    assert code == 78
    assert "none.toml: no such file; create it with: tenantctl init --config " in message


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_a_configuration_that_the_parser_cannot_take_exits_with_78(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    code, message = run_to_its_end("--config", str(file))
    assert code == 78 and str(file) in message and "Traceback" not in message


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"engine": {"slotz": 3}}, "engine.slotz: unknown key"),
        ({"engine": {"slots": 0}}, "engine.slots = 0"),
        ({"scheduler": {"half_life_s": 0}}, "scheduler.half_life_s = 0"),
        ({"scheduler": {"policy": "lottery"}}, "scheduler.policy = 'lottery'"),
        ({"billing": {"timezone": "Mars/Base"}}, "unknown time zone"),
        ({"engine": {"backend": "llama"}}, "model.path"),
        ({"engine": {"backend": "llama"}, "model": {"path": "/does/not/exist.gguf"}}, "no such file"),
        ({"server": {"socket": "/tmp/" + "x" * 120}}, "107"),
        ({"ledger": {"state_dir": "/proc/tenantd"}}, "cannot create /proc/tenantd for the ledger"),
    ],
)
def test_a_bad_configuration_ends_with_78_and_the_reason(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    daemon = Daemon(tmp_path, **settings)
    code, message = run_to_its_end("--config", str(daemon.config))
    assert code == 78
    assert says in message
    assert "Traceback" not in message


def test_a_file_that_is_no_model_ends_with_78_and_the_reason(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"not a model")
    environment = {"TENANTD_STATE_DIR": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path)}
    code, message = run_to_its_end("--model", str(model), **environment)
    assert code == 78
    assert "not a GGUF file" in message


def test_a_second_daemon_refuses_and_the_first_goes_on(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        code, message = run_to_its_end("--config", str(daemon.config))
        assert code == 1
        assert f"pid {daemon.process.pid if daemon.process else 0}" in message
        other_socket = {"TENANTD_SOCKET": str(tmp_path / "other.sock")}
        code, message = run_to_its_end("--config", str(daemon.config), **other_socket)
        assert code == 1
        assert "state folder" in message
        assert daemon.get("/readyz").status_code == 200


# ---- what it says ------------------------------------------------------------------------------------------------


def test_it_says_once_what_it_serves(tmp_path: Path) -> None:
    with Daemon(tmp_path, model={"name": "tiny"}) as daemon:
        log_has(daemon, "ready: tiny")
        assert daemon.stop() == 0
        log = daemon.log.read_text()
    assert log.count("ready: tiny") == 1
    assert "4 slots of" in log
    assert f"listening on {daemon.socket}" in log
    assert "Traceback" not in log


def test_the_socket_and_the_state_folder_are_private(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        daemon.stop()
    assert not daemon.socket.exists()


def test_the_daemon_hides_gpus_from_itself_and_not_from_the_engine(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    show_to_own_user(daemon)
    try:
        daemon.start(CUDA_VISIBLE_DEVICES="0,1")
        environment = Path(f"/proc/{daemon.engine_pid()}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=0,1" in environment
    finally:
        daemon.kill()


# ---- reloading ---------------------------------------------------------------------------------------------------


def test_sighup_takes_new_limits_and_names_what_needs_a_restart_and_prices_that_are_not_read(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        daemon.configure(limits={"default_max_tokens": 3}, billing={"output_price_per_million": 7}, engine={"slots": 5})
        daemon.signal(signal.SIGHUP)
        log_has(daemon, "configuration and tenants reloaded")
        assert daemon.complete("acme", ignore_eos=True).json()["usage"]["completion_tokens"] == 3
        assert "engine.slots has changed; it takes effect at the next start" in daemon.log.read_text()
        assert daemon.status()["engine"]["slots"] == 4
        [request] = daemon.get("/admin/v1/requests").json()["requests"]
        assert request["output_nanos"] == 3 * 400, "the ledger has a price list since its first start"
        log_has(daemon, "output_price_per_million = 7, but 0.4 is in force")
        log_has(daemon, "tenantctl price set --output 7")
        daemon.stop()


@pytest.mark.parametrize("text", ["[limits\n", *UNREADABLE.values()], ids=["not TOML", *UNREADABLE])
def test_sighup_with_a_bad_file_keeps_what_was(tmp_path: Path, text: str) -> None:
    with Daemon(tmp_path, limits={"default_max_tokens": 5}) as daemon:
        daemon.add_tenant("acme")
        daemon.config.write_text(text)
        daemon.signal(signal.SIGHUP)
        log_has(daemon, "cannot reload the configuration")
        assert daemon.complete("acme", ignore_eos=True).json()["usage"]["completion_tokens"] == 5
        assert daemon.stop() == 0


def test_a_signal_during_an_upgrade_of_the_ledger_ends_the_program_at_once_and_changes_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:  # it makes the folders
        assert daemon.stop() == 0
        (tmp_path / "state" / "ledger.db").unlink()
        path = ledger_of(5, tmp_path / "state")
        with sqlite3.connect(path) as conn:
            conn.execute(GROW, (json.dumps(list(range(2000))),))
        conn.close()
        daemon.launch()
        log_has(daemon, "from schema 5 to 6")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(60) == -signal.SIGTERM
        assert "was upgraded" not in daemon.log.read_text()
    with sqlite3.connect(path) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (5,)
    conn.close()


def test_a_reload_that_fails_as_nobody_foresaw_does_not_end_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Config:
        raise AttributeError("a bug")

    async def scene() -> None:
        daemon = lifecycle.Daemon(Config(), load, {}, StopClock())
        service = cast(Service, SimpleNamespace(config=Config()))
        reloading = asyncio.create_task(daemon._reload_when_told(service, cast(Any, None)))
        for times in (1, 2):
            daemon._on_hangup()
            while len(caplog.records) < times and not reloading.done():
                await asyncio.sleep(0.01)
        assert not reloading.done()
        reloading.cancel()

    asyncio.run(scene())
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


# ---- stopping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_stops_quickly_with_0_and_takes_its_engine_along(tmp_path: Path, number: int) -> None:
    with Daemon(tmp_path) as daemon:
        engine = daemon.engine_pid()
        daemon.signal(number)
        assert daemon.wait(60) == 0
        assert not Path(f"/proc/{engine}").exists()


def test_an_idle_keep_alive_connection_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon, daemon.client() as client:
        client.get("/healthz")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(20) == 0  # far less than a drain may take


def test_requests_that_outlast_the_drain_end_with_an_error_and_are_settled(tmp_path: Path) -> None:
    slow = {"engine": {"fake_step_micros": 20_000}, "server": {"drain_timeout_s": 0.5}}
    with Daemon(tmp_path, **slow) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=2000, ignore_eos=True).begun(3)
        assert daemon.stop() == 0
        stream.join()
    assert stream.error is not None and stream.error["code"] == "cancelled"
    assert not stream.done
    [row] = daemon.rows()
    assert row["state"] == "cancelled"
    assert row["completion_tokens"] >= stream.tokens
