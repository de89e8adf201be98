"""A terminal whose whole screen a program fills and whose keys it reads one by one; always given back as it was."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import termios
import tty
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final, Self

ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The other screen, no cursor, no wrapping of long lines."""
LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
ESCAPE_WAIT_S: Final = 0.05
"""How long the rest of the sequence of a key may take; after that it was the key Esc."""
READ_BYTES: Final = 1024
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
_SEQUENCE: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO[@-~]|.", re.DOTALL)
_CODES: Final = {"A": "up", "B": "down", "H": "home", "F": "end"}
_NAMES: Final = {
    **{f"\x1b{mode}{code}": name for mode in "[O" for code, name in _CODES.items()},
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
}


class RawTerminal:
    """A context manager, for the main thread. SIGTERM and SIGHUP end the program by SystemExit; Ctrl-C raises
    KeyboardInterrupt as usual; Ctrl-Z gives the terminal back until the program goes on."""

    def __init__(self, keyboard: int, screen: int) -> None:
        """Both are file descriptors of a terminal."""
        self._keyboard, self._screen = keyboard, screen
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._reading, self._waking, self._wakeup = -1, -1, -1

    def __enter__(self) -> Self:
        self._modes = termios.tcgetattr(self._keyboard)
        self._reading, self._waking = os.pipe()
        for end in (self._reading, self._waking):
            os.set_blocking(end, False)
        with _signals_held():
            for number in ENDING:
                self._handle(number, _end)
            self._handle(signal.SIGTSTP, self._stop)
            self._handle(signal.SIGCONT, self._go_on)
            self._handle(signal.SIGWINCH, lambda *_: self.wake())
            self._wakeup = signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)
            self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _signals_held():
            self._give_back()
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        for end in (self._reading, self._waking):
            os.close(end)

    def wake(self) -> None:
        """End `wait`. Safe in any thread and in signal handlers."""
        with contextlib.suppress(OSError):  # full, so it wakes anyway; or closed
            os.write(self._waking, b"!")

    def wait(self) -> list[str] | None:
        """Keys that were pressed, none if something else has happened; None if the keyboard is gone."""
        ready, _, _ = select.select([self._keyboard, self._reading], [], [])
        if self._reading in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reading, READ_BYTES)
        if self._keyboard not in ready:
            return []
        try:
            data = os.read(self._keyboard, READ_BYTES)
            while data.endswith((b"\x1b", b"\x1b[", b"\x1bO")) and self._comes_more():
                data += os.read(self._keyboard, READ_BYTES)
        except OSError:  # its other end was closed
            return None
        return keys_in(data.decode(errors="ignore")) if data else None

    def write(self, text: str) -> None:
        """Show something."""
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self._screen, data) :]

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        found = os.get_terminal_size(self._screen)
        return max(1, found.columns), max(1, found.lines)

    def _comes_more(self) -> bool:
        return bool(select.select([self._keyboard], [], [], ESCAPE_WAIT_S)[0])

    def _handle(self, number: int, handler: Any) -> None:
        """Unless it is ignored, as a shell without job control has it."""
        if signal.getsignal(number) is not signal.SIG_IGN:
            self._handlers[number] = signal.signal(number, handler)

    def _take(self) -> None:
        tty.setcbreak(self._keyboard)
        self.write(ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # nobody sees it any more
            self.write(LEAVE)
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._modes)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(signal.SIGTSTP, self._stop)  # here the program goes on

    def _go_on(self, _: int, __: FrameType | None) -> None:
        self._take()
        self.wake()


def keys_in(text: str) -> list[str]:
    """The names of keys in what a terminal sends: a character, or `up`, `enter` and the like; others are left out."""
    found = (_NAMES.get(each, each) for each in _SEQUENCE.findall(text))
    return [key for key in found if key in _NAMES.values() or key.isprintable()]


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Signals that come meanwhile take effect at the end."""
    held = {*ENDING, signal.SIGINT, signal.SIGTSTP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
