"""Daemons whose event loop may not be kept busy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.callbacks.sitecustomize import SLOW
from tests.support.daemon import Daemon

HERE = Path(__file__).parent


@contextmanager
def quick_callbacks(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon, started; fails in the end if a callback of its loop was slow."""
    daemon.environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    with daemon:
        yield daemon
    slow = [line for line in daemon.log.read_text().splitlines() if SLOW in line]
    assert not slow, "\n".join(slow)
