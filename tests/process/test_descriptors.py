"""A daemon that runs out of descriptors: nothing crashes, nothing spins, and all goes on when there are some again."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.attacks.raw import connect
from tests.support.daemon import Daemon, wait_until

FEWER_THAN_ARE_OPEN = 8


@contextmanager
def no_descriptors(daemon: Daemon) -> Iterator[None]:
    """What is open stays open; nothing else can be opened."""
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (FEWER_THAN_ARE_OPEN, before[1]))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_NOFILE, before)


def cpu_s(daemon: Daemon) -> float:
    assert daemon.process is not None
    times = psutil.Process(daemon.process.pid).cpu_times()
    return float(times.user + times.system)


def test_without_descriptors_the_engine_has_not_crashed_and_requests_wait_for_it(tmp_path: Path) -> None:
    settings = {"engine": {"fake_step_micros": 2000, "max_crashes": 2, "restart_delay_s": 0.05}}
    with Daemon(tmp_path, **settings) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=500, ignore_eos=True).begun(5)
        engine_pid = daemon.engine_pid()
        with no_descriptors(daemon):
            os.kill(engine_pid, signal.SIGKILL)
            wait_until(lambda: "could not be started: Too many open files" in daemon.log.read_text(), "it to be tried")
            before_s, began_s = cpu_s(daemon), time.monotonic()
            with connect(daemon) as waiting:  # in the backlog: nobody can take it
                wait_until(lambda: time.monotonic() - began_s > 2, "some tries more")
                assert cpu_s(daemon) - before_s < 1, "the loop spins"
                waiting.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert stream.join().done and stream.tokens == 500
        log = daemon.log.read_text()
        assert "(1 in a row)" in log and "(2 in a row)" not in log, "one crash: the one that was made"
        assert log.count("cannot accept connections") == 1, "said once, not each time"
        assert daemon.complete("acme", max_tokens=2).status_code == 200
        assert daemon.stop() == 0
