"""Tells of callbacks that keep an event loop's thread busy: more than 100 ms of its CPU time is a failure.

With this folder on PYTHONPATH every Python program watches itself and prints a line on standard error for each. It then
runs on asyncio's own loop, since uvloop's callbacks do not pass through Python. CPU time, not the clock's: how busy the
machine is makes no difference.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import os
import sys
import time
from asyncio.events import Handle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MOST_S = float(os.environ.get("MOST_CALLBACK_S", "0.1"))
SLOW = "slow callback:"
STARTING = ("Daemon.run", "_exit_code")
"""The daemon opens its files before it serves anybody, and closes them when it serves nobody any more."""


@contextmanager
def watching(report: Callable[[str], None]) -> Iterator[None]:
    """Call `report` with the name of each slow callback of loops that are made within."""
    import uvloop  # not at the top: some who import this have no daemon of their own, and none of its packages

    run, new_event_loop = Handle._run, uvloop.new_event_loop  # type: ignore[attr-defined]
    loop: Any = uvloop
    handle: Any = Handle

    def timed(self: Any) -> None:
        began_s = time.thread_time()
        run(self)
        used_s = time.thread_time() - began_s
        if used_s > MOST_S:
            name = asyncio.base_events._format_handle(self)  # type: ignore[attr-defined]
            if not any(starting in name for starting in STARTING):
                report(f"{SLOW} {used_s * 1000:.0f} ms in {name}")

    handle._run, loop.new_event_loop = timed, asyncio.new_event_loop
    try:
        yield
    finally:
        handle._run, loop.new_event_loop = run, new_event_loop


if __name__ == "sitecustomize":
    for_ever = watching(lambda line: print(line, file=sys.stderr, flush=True))
    for_ever.__enter__()
