"""Handles SIGTERM, SIGINT and SIGHUP, from the program's first line to its last.

Standard library only, and little of it: `hold` runs before the imports that take half a second. The handlers stay when
the event loop has ended, so that no signal ever ends the program halfway or prints a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

TERMINAL: Final = "/dev/tty"  # the controlling terminal, whichever it is
HUNG_UP: Final = (errno.ENXIO, errno.EIO)  # unlike other errors, such as a lack of descriptors
STOPPING: Final = (signal.SIGTERM, signal.SIGINT)

_had_terminal = False
_hangups = 0  # received before `listen`


def hold() -> None:
    """Until `listen` or `release`, hold back SIGHUP, and let SIGINT end the program at once without a message."""
    global _had_terminal
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: the end of the terminal does not concern us
        _had_terminal = _look_at_terminal() == 0
        signal.signal(signal.SIGHUP, _note_hangup)


def release() -> None:
    """Restore the default effect of signals, because this is not the daemon; a held signal takes effect now."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is _note_hangup:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if _hangups:
            signal.raise_signal(signal.SIGHUP)


def listen(on_stop: Callable[[], None], on_hangup: Callable[[], None]) -> None:
    """Call these in the running loop. A held SIGHUP is delivered. After the loop has ended, signals do nothing."""
    import asyncio  # takes a tenth of a second, too long for `hold`

    loop = asyncio.get_running_loop()

    def tell(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(on_hangup if number == signal.SIGHUP else on_stop)

    for number in (*STOPPING, signal.SIGHUP):
        signal.signal(number, tell)
    if _hangups:
        loop.call_soon(on_hangup)


def ignore() -> None:
    """Ignore all signals, because the program is about to exit."""
    for number in (*STOPPING, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def has_lost_terminal() -> bool:
    """Whether the program was started from a terminal that is gone."""
    return _had_terminal and _look_at_terminal() in HUNG_UP


def has_terminal() -> bool:
    """Whether the program was started from a terminal that still exists, as far as is known."""
    return _had_terminal


def forget_terminal() -> None:
    """The program has outlived its terminal: treat it like one that never had one."""
    global _had_terminal
    _had_terminal = False


def _look_at_terminal() -> int:
    """The errno of opening the terminal; 0 if it exists."""
    try:
        os.close(os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as e:
        return e.errno or errno.EIO
    return 0


def _note_hangup(_: int, __: FrameType | None) -> None:
    global _hangups
    _hangups += 1
