"""A tenant that used an idle machine is not second class when another comes, through a real daemon."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Stream, wait_until

ENGINE = {"slots": 8, "fake_step_micros": 5000, "context_tokens": 4096}
ALONE_TOKENS = 1000
"""Of each of 8 requests: five seconds' work that nobody else wanted to have done."""
MOST_TOKENS = 8 * ALONE_TOKENS * 6 // 10
"""What the newcomer may get before the other's first token: all that it needs on its way on a busy machine. If it
started behind, the newcomer would get `8 * ALONE_TOKENS`."""


@pytest.mark.parametrize("restarted", ["nothing", "engine", "daemon"])
def test_who_worked_alone_and_paused_for_an_instant_waits_for_no_newcomer(tmp_path: Path, restarted: str) -> None:
    with Daemon(tmp_path, engine=ENGINE) as daemon:
        daemon.add_tenant("first")
        daemon.add_tenant("newcomer")
        alone = [daemon.stream("first", f"{i}", max_tokens=ALONE_TOKENS, ignore_eos=True) for i in range(8)]
        assert all(stream.join().done for stream in alone)
        restart(daemon, restarted)
        flood = flooded_by(daemon, "newcomer", clients=32)
        for _ in range(3):
            before = sum(stream.tokens for stream in flood)
            request = daemon.stream("first", "again", max_tokens=4, ignore_eos=True).begun()
            assert sum(stream.tokens for stream in flood) - before < MOST_TOKENS
            assert request.join().done
        assert not any(stream.error for stream in flood)
        daemon.kill()


def restart(daemon: Daemon, what: str) -> None:
    if what == "engine":
        pid = daemon.engine_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: daemon.status()["engine_pid"] not in (None, pid), "a new engine")
        wait_until(lambda: daemon.get("/readyz").status_code == 200, "it to be ready")
    elif what == "daemon":
        assert daemon.stop() == 0
        daemon.start()


def flooded_by(daemon: Daemon, tenant: str, clients: int) -> list[Stream]:
    flood = [daemon.stream(tenant, f"{i}", max_tokens=3000, ignore_eos=True) for i in range(clients)]
    wait_until(lambda: daemon.status()["running"] + daemon.status()["waiting"] == clients, "the flood")
    return flood
