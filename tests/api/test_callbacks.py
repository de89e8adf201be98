"""The instrument that watches the event loop in other tests: it sees what it is there to see."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import uvloop

from tests.support.callbacks.sitecustomize import MOST_S, watching
from tests.support.callbacks.watch import quick_callbacks
from tests.support.daemon import Daemon


async def keep_busy(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


async def wait(wall_s: float) -> None:
    await asyncio.to_thread(time.monotonic)
    await asyncio.sleep(wall_s)


def test_a_callback_that_uses_its_thread_for_long_is_told_with_its_name() -> None:
    slow: list[str] = []
    with watching(slow.append), asyncio.Runner(loop_factory=lambda: uvloop.new_event_loop()) as runner:
        runner.run(keep_busy(MOST_S / 5))
        runner.run(wait(MOST_S * 2))
        assert slow == []
        runner.run(keep_busy(MOST_S * 2))
    assert len(slow) == 1 and "keep_busy" in slow[0]


def test_a_daemon_tells_of_its_callbacks_when_it_is_watched(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.environment["MOST_CALLBACK_S"] = "0"
    with pytest.raises(AssertionError, match="RequestResponseCycle"), quick_callbacks(daemon):
        daemon.add_tenant("acme")
