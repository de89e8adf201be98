"""Waits until the daemon can answer, and shows what it is waiting for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tenantctl.client import Client
from tenantctl.render import message
from tenantd.errors import DaemonNotRunning, EngineUnavailable

POLL_S: Final = 0.1
WAITING_FOR: Final = {
    "loading": "loading the model",
    "restarting": "restarting the engine",
    "checking": "checking isolation",
}
"""What is said of states that pass by themselves."""
Show = Callable[[str, float, str], None]
"""Shows what the command is waiting for: state, progress from 0 to 1, reason."""


def wait_ready(client: Client, wait_s: float) -> None:
    """Raises DaemonNotRunning if the daemon exits or never starts, EngineUnavailable if it is not ready in time."""
    deadline_s = time.monotonic() + wait_s
    seen = False
    with _progress() as show:
        while True:
            late = time.monotonic() >= deadline_s
            try:
                state = client.readiness()
            except DaemonNotRunning:
                if seen:
                    raise DaemonNotRunning("the daemon stopped while loading; its log says why") from None
                if late:
                    raise
                show("waiting for the daemon", 0.0, "")
            else:
                seen = True
                if state["status"] == "ready":
                    return
                progress = (
                    state["status"],
                    state.get("progress", 0.0),
                    state.get("reason", ""),
                )  # only administrators get the last two
                if late:
                    raise EngineUnavailable(f"not ready after {wait_s:g} s: {_waiting_text(*progress)}")
                show(*progress)
            time.sleep(min(POLL_S, max(0.0, deadline_s - time.monotonic())))


@contextmanager
def _progress() -> Iterator[Show]:
    """Updates one line on a terminal; otherwise prints a line for each state and each 10% of progress."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("waiting") as line:
            yield lambda state, progress, reason: line.update(Text(_waiting_text(state, progress, reason)))
        return
    said: set[tuple[str, int, str]] = set()

    def say(state: str, progress: float, reason: str) -> None:
        step = (state, int(progress * 10), reason)
        if step not in said:
            said.add(step)
            message(_waiting_text(state, progress, reason))

    yield say


def _waiting_text(state: str, progress: float, reason: str) -> str:
    return WAITING_FOR.get(state, state) + (f" {progress:.0%}" if progress else "") + (f": {reason}" if reason else "")
