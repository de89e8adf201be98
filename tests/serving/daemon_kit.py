"""What the daemon's tests share: an event loop to run in, a scripted engine, and waiting for a fact."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from tenantd.config import Config, parse_config

T = TypeVar("T")
SCRIPTED = Path(__file__).parent.parent / "fleet" / "scripted_engine.py"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run(work: Coroutine[Any, Any, T], loop: str = "asyncio", timeout_s: float = 300) -> T:
    """Run to the end in a fresh event loop; nothing may be left over in it, nor any exception unseen."""
    unseen: list[dict[str, Any]] = []

    async def bounded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        result = await asyncio.wait_for(work, timeout_s)
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left over: {left}"
        return result

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        result = runner.run(bounded())
    assert not unseen, unseen
    return result


async def until(fact: Callable[[], object], timeout_s: float = 120) -> None:
    """Wait until `fact()` is true."""
    async with asyncio.timeout(timeout_s):
        while not fact():
            await asyncio.sleep(0.005)


def scripted(folder: Path, *lives: dict[str, Any]) -> tuple[str, ...]:
    """The command of an engine that lives `lives` one after the other, the last one again and again."""
    script = folder / "script.json"
    script.write_text(json.dumps(lives or [{}]))
    return (sys.executable, str(SCRIPTED), str(script))


def lives(folder: Path) -> int:
    """How many engine processes were started."""
    return int((folder / "script.lives").read_text())


def config(**engine: Any) -> Config:
    """A configuration whose engine restarts without making a test wait."""
    settings = {"backend": "fake", "restart_delay_s": 0.01, "max_crashes": 3, "hang_timeout_s": 20, **engine}
    return parse_config({"engine": settings}, "test")


def is_gone(pid: int) -> bool:
    """True when there is no such process, not even a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
