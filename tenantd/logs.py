"""The log: lines on standard error, written by a thread of their own.

Whoever reads standard error may stop: a pipe fills up, a terminal is held or closed. Lines are then dropped and
counted, and nobody who logs has to wait.
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
"""How long the program's end waits for somebody to read its last words."""


class StderrHandler(logging.Handler):
    """Writes what is logged to file descriptor `fd`. `dropped`: lines that found no room, or nobody to read them."""

    def __init__(self, fd: int = STDERR) -> None:
        super().__init__()
        self.dropped = 0
        self.setFormatter(LogFormatter(FORMAT, DATE_FORMAT))
        self._fd = fd
        self._reported = 0  # of the dropped
        self._changed = threading.Condition()  # guards everything below
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.say(self.format(record))
        except Exception:  # as any handler does: a line that cannot be made is no reason to fail
            self.handleError(record)

    def say(self, text: str) -> None:
        """A line as it stands. Never waits."""
        line = text.encode("utf-8", "backslashreplace")[:MOST_LINE_BYTES] + b"\n"
        with self._changed:
            if self._is_closed or self._waiting_bytes + len(line) > MOST_WAITING_BYTES:
                self.dropped += 1
                return
            self._waiting_bytes += len(line)
            self._lines.append(line)
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, for at most CLOSE_TIMEOUT_S. May be called again."""
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
        """Everything that waits; [] when closed and all is written."""
        with self._changed:
            while not self._lines and not self._is_closed:
                self._changed.wait()
            lines, self._lines = list(self._lines), deque()
        return lines

    def _report(self) -> None:
        """Standard error is read again: say what is missing in it."""
        if lost := self.dropped - self._reported:
            self._reported += lost
            now = time.strftime(DATE_FORMAT)
            self._write(f"{now} WARNING {lost} log lines were dropped because nobody read standard error\n".encode())

    def _write(self, data: bytes) -> bool:
        """False when it cannot be written at all: the terminal or the reader is gone."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # somebody else made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True


def keep_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2 on nothing: or the next file opened, the ledger say, would get our lines."""
    for fd in (0, 1, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(nowhere := os.open(os.devnull, os.O_RDWR), fd)
            if nowhere != fd:
                os.close(nowhere)


def dropped_lines() -> int:
    """Of this process's log, so far."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, StderrHandler))
