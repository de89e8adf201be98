"""What the processes hold in memory stays there: no core files, and nobody but root looks into it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.process.test_users import open_folder as open_folder
from tests.support.daemon import PYTHON, Daemon, wait_until
from tests.support.program import NOBODY

PACKAGES = {"PYTHONPATH": sysconfig.get_path("purelib")}
LOOK = """
import os, sys
for name in ("environ", "mem", "maps", "fd/0"):
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").close()
    except PermissionError:
        continue
    print(name)
import psutil
process = psutil.Process(int(sys.argv[1]))
assert process.cpu_times().user >= 0 and process.memory_info().rss and process.cmdline()
"""
"""What of a process its own user can open. Times, sizes and the command line anybody can see."""


def unlimited_cores() -> None:
    for limits in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (1 << 20, 1 << 20)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, limits)
            return


def become_ordinary() -> None:
    """Root's daemon would hide nothing from root."""
    unlimited_cores()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def python_for_everybody() -> str:
    """An interpreter that an ordinary user may run, with the packages of this one: root's own may be in its home."""
    for python in (PYTHON, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([python, "-c", "import uvloop"], env=PACKAGES, preexec_fn=become_ordinary, check=True)
            return python
    raise AssertionError("no Python that other users may run: install the system's, or run the tests as another user")


@pytest.fixture
def daemon(open_folder: Path) -> Iterator[Daemon]:
    """Of an ordinary user, with its engine and the process that compiles grammars."""
    daemon = Daemon(open_folder)
    daemon._python = python_for_everybody()
    daemon.environment |= PACKAGES
    if os.geteuid() == 0:
        os.chown(open_folder, NOBODY, NOBODY)
    try:
        daemon.start(before_exec=become_ordinary)
        daemon.add_tenant("acme")
        yield daemon
    finally:
        daemon.kill()


def processes(daemon: Daemon) -> dict[str, int]:
    """The daemon, its engine and the process that compiles grammars."""
    assert daemon.complete("acme", max_tokens=2, grammar='root ::= "a"').status_code == 200
    own = psutil.Process(daemon.running.pid)
    found = {" ".join(each.cmdline()): each.pid for each in own.children()}
    names = {"engine": "tenantd.engine", "compiler": "tenantd.text.compiler"}
    return {"daemon": own.pid} | {
        k: pid for k, module in names.items() for line, pid in found.items() if module in line
    }


def test_no_process_writes_a_core_file_or_shows_its_memory_to_its_own_user(daemon: Daemon) -> None:
    pids = processes(daemon)
    assert set(pids) == {"daemon", "engine", "compiler"}
    for name, pid in pids.items():
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), name
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0, name
        look = [daemon._python, "-c", LOOK, str(pid)]
        looked = subprocess.run(look, capture_output=True, env=PACKAGES, preexec_fn=become_ordinary, check=False)
        assert (looked.returncode, looked.stdout, looked.stderr) == (0, b"", b""), name


def test_a_daemon_of_an_ordinary_user_serves_restarts_its_engine_and_stops(daemon: Daemon) -> None:
    assert daemon.complete("acme", max_tokens=3).status_code == 200
    running = daemon.stream("acme", max_tokens=400, ignore_eos=True).begun()
    os.kill(daemon.engine_pid(), 9)
    assert running.join().done
    wait_until(lambda: daemon.status()["engine_restarts"] == 1 and daemon.is_ready(), "another engine")
    assert "tenantd_ready 1.0" in daemon.get("/metrics").text
    assert daemon.stop() == 0
