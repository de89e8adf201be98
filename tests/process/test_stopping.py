"""Signals at every moment, terminals that close, logs that nobody reads, and how long a stop takes."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.program import command_environment, show_to_own_user

PROGRAMS = {"tenantd": ["-m", "tenantd"], "tenantctl serve": ["-m", "tenantctl", "serve"]}
IMPORTS = {"tenantd": "uvicorn", "tenantctl serve": "typer"}
"""A module that is imported in the middle, by these programs only and not by their children."""
STOP_AT_IMPORT = """
import os, signal, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STOP_AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGSTOP)
sys.meta_path.insert(0, Stop())
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Not started; killed in the end."""
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.kill()


def begin(daemon: Daemon, program: str, number: int) -> None:
    """Start it, and send it the signal in the middle of its imports."""
    (daemon.folder / "sitecustomize.py").write_text(STOP_AT_IMPORT)
    path = os.pathsep.join(filter(None, (str(daemon.folder), os.environ.get("PYTHONPATH", ""))))
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, *PROGRAMS[program], "--config", str(daemon.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=command_environment(daemon, {"PYTHONPATH": path, "STOP_AT": IMPORTS[program]}),
        )
    process = psutil.Process(daemon.process.pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the middle of its imports")
    daemon.signal(number)
    daemon.signal(signal.SIGCONT)


def is_ready(daemon: Daemon) -> bool:
    assert daemon.process is not None and daemon.process.poll() is None, daemon.log.read_text()
    return daemon.socket.exists() and daemon.is_ready()


# ---- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
def test_sighup_before_it_can_reload_does_no_harm(daemon: Daemon, program: str) -> None:
    begin(daemon, program, signal.SIGHUP)
    wait_until(lambda: is_ready(daemon), "a daemon that serves")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_interrupt_before_anything_is_open_ends_it_in_silence(daemon: Daemon, program: str) -> None:
    begin(daemon, program, signal.SIGINT)
    assert daemon.wait(60) == -signal.SIGINT
    assert daemon.log.read_text() == ""


def test_any_number_of_interrupts_ends_it_in_order(daemon: Daemon) -> None:
    daemon.configure(engine={"fake_step_micros": 20_000})
    daemon.start()
    daemon.add_tenant("acme")
    daemon.stream("acme", max_tokens=4000, ignore_eos=True).begun(3)
    process = daemon.process
    assert process is not None

    def interrupted() -> bool:
        process.send_signal(signal.SIGINT)
        return process.poll() is not None

    wait_until(interrupted, "its end")
    assert process.returncode == 0
    assert "Traceback" not in daemon.log.read_text()
    assert [row["state"] for row in daemon.rows()] == ["cancelled"]


# ---- terminals -----------------------------------------------------------------------------------------------------


def own_terminal() -> None:
    """Standard input becomes the controlling terminal of a new session."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def on_terminal(daemon: Daemon, command: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """A program that leads the session of a terminal, and the terminal's other end."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=command_environment(daemon),
            preexec_fn=own_terminal,
        )
    finally:
        os.close(theirs)
    return process, ours


def test_sighup_reloads_while_the_terminal_is_there_and_stops_when_it_was_closed(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "tenantctl", "serve", "--config", str(daemon.config)]
    daemon.process, terminal = on_terminal(daemon, command)
    wait_until(lambda: is_ready(daemon), "a daemon that serves")
    daemon.configure(limits={"default_max_tokens": 3})
    daemon.add_tenant("acme")
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.complete("acme", ignore_eos=True).json()["usage"]["completion_tokens"] == 3, "a reload")
    os.close(terminal)
    assert daemon.wait(60) == 0
    assert not daemon.socket.exists()


def test_closing_the_terminal_of_a_shell_stops_the_daemon_in_its_foreground(daemon: Daemon) -> None:
    shell, terminal = on_terminal(daemon, ["bash", "--norc", "-i"])
    try:
        os.write(terminal, f"{sys.executable} -m tenantctl serve --config {daemon.config}\n".encode())
        lock = daemon.folder / "state" / "daemon.lock"
        wait_until(lambda: daemon.socket.exists() and daemon.get("/readyz").status_code == 200, "a daemon that serves")
        own = psutil.Process(int(lock.read_text()))
        assert own.pid != shell.pid
    finally:
        os.close(terminal)
    wait_until(lambda: not own.is_running(), "its end")
    assert not daemon.socket.exists()
    shell.wait(60)


# ---- standard error ------------------------------------------------------------------------------------------------


def dropped_lines(daemon: Daemon) -> float:
    [line] = [x for x in daemon.get("/metrics").text.splitlines() if x.startswith("tenantd_log_lines_dropped_total ")]
    return float(line.split()[1])


def read(pipe: int) -> bytes:
    """What is in it, at most a piece; b"" when it is empty."""
    return os.read(pipe, 1 << 20) if select.select([pipe], [], [], 0)[0] else b""


@pytest.mark.parametrize("is_read_again", [True, False])
def test_standard_error_that_nobody_reads_holds_up_nothing(daemon: Daemon, is_read_again: bool) -> None:
    ours, theirs = os.pipe()
    daemon.process = subprocess.Popen(
        [sys.executable, "-m", "tenantd", "--config", str(daemon.config)],
        stdin=subprocess.DEVNULL,
        stderr=theirs,
        env=command_environment(daemon),
    )
    os.close(theirs)
    try:
        wait_until(lambda: is_ready(daemon), "a daemon that serves")
        daemon.add_tenant("acme")
        daemon.config.write_text(f"[engine]\n{'x' * 60_000} = 1\n")  # a reload repeats the key

        def has_dropped() -> bool:
            daemon.signal(signal.SIGHUP)
            return dropped_lines(daemon) > 0

        wait_until(has_dropped, "a log that is full")
        assert daemon.complete("acme", max_tokens=3).status_code == 200
        if is_read_again:
            wait_until(
                lambda: b"log lines were dropped because nobody read standard error" in read(ours), "the report of it"
            )
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    finally:
        os.close(ours)


def test_without_standard_error_its_lines_go_into_no_other_file(daemon: Daemon) -> None:
    show_to_own_user(daemon)
    daemon.launch(lambda: [os.close(fd) for fd in (0, 1, 2)])
    wait_until(lambda: is_ready(daemon), "a daemon that serves")
    daemon.add_tenant("acme")
    assert daemon.complete("acme", max_tokens=3).status_code == 200
    assert daemon.process is not None
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{daemon.process.pid}/fd/{fd}") == "/dev/null"
    assert daemon.stop() == 0
    assert len(daemon.rows()) == 1


# ---- how long it takes ---------------------------------------------------------------------------------------------


def test_the_whole_stop_is_over_in_time_whatever_hangs(daemon: Daemon) -> None:
    """Requests that do not end, an engine that does not answer, a ledger that cannot be written."""
    daemon.configure(
        engine={"fake_step_micros": 20_000},
        server={"socket": str(daemon.socket), "drain_timeout_s": 60, "stop_timeout_s": 4},
    )
    daemon.start()
    daemon.add_tenant("acme")
    stream = daemon.stream("acme", max_tokens=4000, ignore_eos=True).begun(3)
    other = sqlite3.connect(daemon.folder / "state" / "ledger.db", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        os.kill(daemon.engine_pid(), signal.SIGSTOP)
        began_s = time.monotonic()
        daemon.signal(signal.SIGTERM)
        daemon.wait(60)
        assert time.monotonic() - began_s < 20  # not the minute that the drain may take
    finally:
        other.close()
    stream.join()
    assert stream.error is not None and not stream.done, "its client is told"
    assert "Traceback" not in daemon.log.read_text()
    daemon.configure()
    daemon.start()
    [row] = daemon.rows()
    assert row["state"] != "running"
