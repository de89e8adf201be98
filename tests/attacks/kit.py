"""What an attack is held to: a neighbour whose every request stays quick and good, and bounded memory.

With TENANTD_ATTACKS=FILE in the environment the neighbour is also measured alone before each attack, as long as the
attack lasts, and both go to FILE as a line of JSON: benchmarks/attacks.py compares them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.daemon import Daemon

ATTACK_S = 10.0
USUAL_WAIT_S = 2.0
"""For nine in ten whole requests of the neighbour, from connecting to the last byte, where a CPU is free. What else the
machine does beside the attack is allowed for: see `Watch.slowness`."""
LONGEST_WAIT_S = 10.0
"""For each of them: a disk may be slow for once."""
MORE_BYTES = 200 * 1024 * 1024
SAMPLE_S = 0.05
RESULTS = os.environ.get("TENANTD_ATTACKS", "")


@dataclass
class Watch:
    """What was seen while an attack ran."""

    until_s: float
    waits_s: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    slowness_seen: list[float] = field(default_factory=list)
    more_bytes: dict[str, int] = field(default_factory=dict)  # of resident memory at its peak, by process

    @property
    def goes_on(self) -> bool:
        """True until the attack has lasted as long as it must. Attack in a loop on this."""
        return time.monotonic() < self.until_s

    @property
    def slowness(self) -> float:
        """How many times as long as alone a program took for the same work, in all but the worst twentieth."""
        return sorted(self.slowness_seen)[len(self.slowness_seen) * 19 // 20]


@contextlib.contextmanager
def unharmed(
    daemon: Daemon,
    *,
    attack_s: float = ATTACK_S,
    more_bytes: int = MORE_BYTES,
    name: str = "neighbour",
) -> Iterator[Watch]:
    """While the block runs, a tenant of its own asks all the time; fails if it was refused or kept waiting.

    Fails as well if the daemon or the engine process grew by more than `more_bytes`, or another engine was started.
    The block has to run for `attack_s`: `while watch.goes_on: ...`.
    """
    key = daemon.add_tenant(name)
    assert daemon.process is not None
    engine_pid = daemon.engine_pid()
    watch = Watch(time.monotonic() + attack_s)
    with _neighbour(daemon, key, watch), _memory({"daemon": daemon.process.pid, "engine": engine_pid}, watch):
        alone_s = _alone(watch, attack_s) if RESULTS else []
        yield watch
    if RESULTS:
        line = {"attack": _test_name(), "alone_s": alone_s, "attacked_s": watch.waits_s, "statuses": watch.statuses}
        with Path(RESULTS).open("a") as file:
            file.write(json.dumps({**line, "more_bytes": watch.more_bytes}) + "\n")
    assert not watch.goes_on, "the attack was too short"
    assert set(watch.statuses) == {200}, f"the neighbour was answered {sorted(set(watch.statuses))}"
    usual_s, longest_s = sorted(watch.waits_s)[len(watch.waits_s) * 9 // 10], max(watch.waits_s)
    waited = f"the neighbour waited {usual_s:.2f} s, at most {longest_s:.2f} s"
    waited += f", while the machine was {watch.slowness:.1f} times as slow"
    assert usual_s <= USUAL_WAIT_S * watch.slowness and longest_s <= LONGEST_WAIT_S * watch.slowness, waited
    assert max(watch.more_bytes.values()) <= more_bytes, f"memory grew: {watch.more_bytes}"
    assert daemon.engine_pid() == engine_pid, "the engine was started again"


def _alone(watch: Watch, seconds: float) -> list[float]:
    threading.Event().wait(seconds)
    alone_s = list(watch.waits_s)
    watch.waits_s.clear()
    watch.statuses.clear()
    watch.until_s = time.monotonic() + seconds
    return alone_s


def _test_name() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]


@contextlib.contextmanager
def _neighbour(daemon: Daemon, key: str, watch: Watch) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.attacks.neighbour", str(daemon.socket), key]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    lines = iter(process.stdout)

    def take(line: str) -> None:
        seconds, status, slowness = line.split()
        watch.waits_s.append(float(seconds))
        watch.statuses.append(int(status))
        watch.slowness_seen.append(float(slowness))

    take(next(lines))  # it has started, and the first request has warmed everything up
    watch.waits_s.clear()
    reader = threading.Thread(target=lambda: [take(line) for line in lines])
    reader.start()
    try:
        yield
    finally:
        process.stdin.close()
        process.wait(150)
        reader.join()
        process.stdout.close()


@contextlib.contextmanager
def _memory(pids: dict[str, int], watch: Watch) -> Iterator[None]:
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: process.memory_info().rss for name, process in processes.items()}
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(SAMPLE_S):
            for name, process in processes.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    more = process.memory_info().rss - before[name]
                    watch.more_bytes[name] = max(watch.more_bytes.get(name, 0), more)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        is_over.set()
        sampler.join()
