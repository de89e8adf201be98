"""The log: lines on standard error, written by a thread of their own.

The reader of standard error may stop reading: a pipe fills up, a terminal is stopped or closed. Lines are then dropped
and counted, so that logging never waits.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from typing import Final

from tenantd.printable import LogFormatter

STDERR: Final = 2
FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
DATE_FORMAT: Final = "%Y-%m-%d %H:%M:%S"
MOST_WAITING_BYTES: Final = 1 << 20
MOST_LINE_BYTES: Final = 64 * 1024
CLOSE_TIMEOUT_S: Final = 1.0
"""How long the program waits at its end for its last lines to be read."""


class StderrHandler(logging.Handler):
    """Writes log lines to file descriptor `fd`. `dropped` counts lines without room or reader."""

    def __init__(self, fd: int = STDERR) -> None:
        super().__init__()
        self.dropped = 0
        self.setFormatter(LogFormatter(FORMAT, DATE_FORMAT))
        self._fd = fd
        self._reported = 0  # dropped lines reported so far
        self._changed = threading.Condition()  # guards everything below
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.say(self.format(record))
        except Exception:  # like any handler: a line that cannot be formatted must not cause a failure
            self.handleError(record)

    def say(self, text: str) -> None:
        """Write a line as it is. Never waits."""
        line = text.encode("utf-8", "backslashreplace")[:MOST_LINE_BYTES] + b"\n"
        with self._changed:
            if self._is_closed or self._waiting_bytes + len(line) > MOST_WAITING_BYTES:
                self.dropped += 1
                return
            self._waiting_bytes += len(line)
            self._lines.append(line)
            self._changed.notify()

    def close(self) -> None:
        """Write waiting lines, for at most CLOSE_TIMEOUT_S. Safe to call again."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(CLOSE_TIMEOUT_S)
        super().close()

    # -- the thread

    def _run(self) -> None:
        while lines := self._take():
            is_written = self._write(b"".join(lines))
            with self._changed:
                self._waiting_bytes -= sum(map(len, lines))
                self.dropped += 0 if is_written else len(lines)
            if is_written:
                self._report()

    def _take(self) -> list[bytes]:
        """All waiting lines; [] once closed and everything is written."""
        with self._changed:
            while not self._lines and not self._is_closed:
                self._changed.wait()
            lines, self._lines = list(self._lines), deque()
        return lines

    def _report(self) -> None:
        """Standard error is being read again: report how many lines are missing."""
        if lost := self.dropped - self._reported:
            self._reported += lost
            now = time.strftime(DATE_FORMAT)
            self._write(f"{now} WARNING {lost} log lines were dropped because nobody read standard error\n".encode())

    def _write(self, data: bytes) -> bool:
        """Write lines. False if that is impossible, because the terminal or the reader is gone."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # another process made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True


def keep_standard_descriptors() -> None:
    """Open closed descriptors 0, 1 and 2 on /dev/null. Otherwise the next file, e.g. the ledger, would get our
    output."""
    for fd in (0, 1, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(nowhere := os.open(os.devnull, os.O_RDWR), fd)
            if nowhere != fd:
                os.close(nowhere)


def dropped_lines() -> int:
    """Log lines dropped in this process so far."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, StderrHandler))
