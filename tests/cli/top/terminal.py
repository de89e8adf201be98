"""`tenantctl top` on a terminal of its own, started by a shell with job control."""

from __future__ import annotations

import fcntl
import os
import re
import select
import shlex
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.cli.conftest import command
from tests.support.daemon import wait_until

FRAME = "\x1b[H\x1b[2K"
OTHER_SCREEN, USUAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
SCRIPT = """exec <{name} >{name} 2>&1; set -m
{command}; echo "left with $?"
while [ -n "$(jobs -s)" ]; do read -r; fg >/dev/null; echo "left with $?"; done"""
"""The shell says how the program ended or stopped, and lets it go on at a line from the keyboard."""


class TopTerminal:
    """A context manager. `text` is all that came since it was last forgotten."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24) -> None:
        self._master, self._slave = os.openpty()
        self.resize(columns, lines)
        self._modes = termios.tcgetattr(self._slave)
        script = SCRIPT.format(name=os.ttyname(self._slave), command=shlex.join(command("top", *arguments)))
        self._shell = subprocess.Popen(["bash", "-c", script], start_new_session=True, preexec_fn=_take_signals)
        self.text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._master)  # hangs up, which ends whatever is there
        os.close(self._slave)
        self._shell.kill()
        self._shell.wait()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def signal(self, number: int) -> None:
        """To the program, which is in front. While nothing is, that is group 0: to killpg, the caller's own."""
        os.killpg(wait_until(lambda: os.tcgetpgrp(self._master), "a program in front"), number)

    def wait_for(self, text: str) -> None:
        self._read_until(lambda: text in self.text, text)

    def frame(self, shows: Callable[[list[str]], Any], what: str) -> list[str]:
        """The next screen, as lines, on which there is what is looked for."""
        self.text = ""
        found: list[str] = []

        def is_there() -> bool:
            for part in self.text.split(FRAME)[1:-1]:  # the last may not be whole yet
                found[:] = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", part).split("\r\n")
                if shows(found):
                    return True
            return False

        self._read_until(is_there, what)
        return found

    def has_words(self, *words: str) -> list[str]:
        """The next screen with all these words."""
        return self.frame(lambda lines: all(any(word in line for line in lines) for word in words), " and ".join(words))

    def is_as_before(self) -> bool:
        """Whether keyboard and screen are as they were before the program."""
        return termios.tcgetattr(self._slave) == self._modes and self.text.rfind(USUAL_SCREEN) > self.text.rfind(
            OTHER_SCREEN
        )

    def _read_until(self, is_there: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + 120
        while not is_there():
            ready, _, _ = select.select([self._master], [], [], max(0, deadline_s - time.monotonic()))
            assert ready, f"not on the screen: {what!r}; there is {self.text[-4000:]!r}"
            self.text += os.read(self._master, 65536).decode(errors="replace")


def _take_signals() -> None:
    """What tests in the background of a shell ignore, and so would whatever they start."""
    for number in (signal.SIGINT, signal.SIGTSTP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
