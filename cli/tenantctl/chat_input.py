"""Reads what is typed in a chat: lines with editing and history on a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tenantctl.render import message
from tenantctl.whole_files import write_whole

MOST_KEPT: Final = 1000
MOST_BYTES: Final = 4 << 20
"""Of a history that is read."""
QUOTES: Final = '"""'
PROMPT: Final = "> "
MORE: Final = "… "


class Typist:
    """Whoever types. With `history`, a file of JSON strings, one a line, what was typed earlier can be recalled."""

    def __init__(self, history: Path | None, words: Sequence[str]) -> None:
        """`words` are completed at the beginning of a line."""
        self._is_person = sys.stdin.isatty()
        self._history = history if self._is_person else None
        self._readline = _readline(words) if self._is_person and sys.stdout.isatty() else None
        if self._readline is not None and history is not None:
            for typed in _kept(history):
                self._readline.add_history(typed)

    def read(self) -> str | None:
        """The next message, which may have several lines between triple quotes; None at the end of the input.

        Raises KeyboardInterrupt.
        """
        if (line := self._line(PROMPT)) is None:
            if self._is_person:
                message("")  # Ctrl-D leaves the cursor behind the prompt
            return None
        if line.lstrip().startswith(QUOTES):
            line = self._block(line.lstrip().removeprefix(QUOTES))
        if line.strip():
            self._keep(line)
        return line

    def _block(self, first: str) -> str:
        lines = [first] if first else []
        while QUOTES not in "".join(lines[-1:]):
            if (line := self._line(MORE)) is None:
                break
            lines.append(line)
        return "\n".join(lines).partition(QUOTES)[0].strip("\n")

    def _line(self, prompt: str) -> str | None:
        if self._is_person and self._readline is None:  # standard output is a file: it gets no prompts
            print(prompt, end="", file=sys.stderr, flush=True)
        try:
            return input(prompt if self._readline is not None else "")
        except EOFError:
            return None

    def _keep(self, typed: str) -> None:
        """Add it to the history; say once if that cannot be written."""
        if self._readline is not None and "\n" in typed:
            self._readline.add_history(typed)
        if self._history is None:
            return
        try:
            self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self._history, "a", encoding="utf-8", opener=_private) as file:
                file.write(json.dumps(typed) + "\n")
        except OSError as e:
            message(f"what you type is not kept: cannot write {self._history}: {e.strerror}")
            self._history = None


def _private(name: str, flags: int) -> int:
    """Open a file, or create one that only its owner can read."""
    return os.open(name, flags, 0o600)


def _readline(words: Sequence[str]) -> Any:
    """Python's line editor, if it has one."""
    try:
        import readline
    except ImportError:
        return None

    def complete(text: str, state: int) -> str | None:
        found = [word for word in words if text and word.startswith(text)]
        return found[state] if state < len(found) else None

    readline.clear_history()
    readline.set_completer_delims("")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    return readline


def _kept(path: Path) -> list[str]:
    """What was typed earlier, the last ones. A file that grew long is cut."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - MOST_BYTES))
            lines = file.read(MOST_BYTES).splitlines()
    except OSError:
        return []
    typed = []
    for line in lines[-MOST_KEPT:]:
        with contextlib.suppress(ValueError, TypeError):
            typed.append(str(json.loads(line)))
    if len(lines) > 2 * MOST_KEPT:
        with contextlib.suppress(OSError):
            write_whole(path, "".join(json.dumps(each) + "\n" for each in typed))
    return typed
