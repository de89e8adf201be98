"""Daemons that listen on TCP, and what tests need to know of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import Daemon, wait_until

_LISTENING = re.compile(r"listening on (https?://\S+:(\d+))$", re.MULTILINE)


def urls(daemon: Daemon) -> list[str]:
    """Where it listens, in the order of its configuration: since it was started last, once it is ready."""
    return [found[1] for found in _LISTENING.finditer(daemon.log.read_text())]


@contextmanager
def hostile(url: str, count: int, key: str, ca: Path | None = None) -> Iterator[None]:
    """That many clients as in `tests.attacks.hostile`."""
    host, _, port = url.partition("://")[2].rpartition(":")
    command = [sys.executable, "-m", "tests.attacks.hostile", host, port, str(count), key]
    process = subprocess.Popen(
        [*command, *([] if ca is None else [str(ca)])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        yield
    finally:
        process.stdin.close()
        process.wait(120)
        process.stdout.close()


def logged(daemon: Daemon, text: str) -> None:
    """Wait for it in the log."""
    wait_until(lambda: text in daemon.log.read_text(), f"{text!r} in the log")
