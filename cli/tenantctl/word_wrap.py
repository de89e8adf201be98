"""Ends the lines of a terminal between words while a text comes piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.cells import cell_len

from tenantctl.fences import fence_after

INDENT: Final = "    "
"""What a line of code begins with in Markdown, unless it is between fences."""
WIDE: Final = 2
"""Cells of a character that a line may be broken beside, as in Chinese."""
MOST_KEPT: Final = 1000
"""Characters of a line, which tell whether it is a fence. To keep all of a long line takes a time that grows with its
square."""


class WordWrap:
    """Breaks lines at spaces and beside wide characters, and changes nothing else.

    Code is left as it is: lines between fences, and lines that are indented or have a tab. Holds back the last word
    until it ends, which it does with the line at the latest.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        """`width` tells how many columns the terminal has; 0 if that is unknown."""
        self._width = width
        self._columns = 0
        self._spaces, self._word = 0, ""  # held back: so many spaces, and a word behind them
        self._fence = ""
        self._begin_line()

    def _begin_line(self) -> None:
        self._line, self._column = "", 0
        self._is_code, self._is_after_wide = bool(self._fence), False

    def feed(self, text: str) -> str:
        """What can be printed now that `text` has come."""
        self._columns = self._width()
        return "".join(map(self._next, text))

    def _next(self, character: str) -> str:
        if character == "\n":
            shown = self._place()
            self._fence = fence_after(self._line, self._fence)
            self._begin_line()
            return f"{shown}\n"
        if len(self._line) <= MOST_KEPT:
            self._line += character
        if character == "\t" or self._line == INDENT:
            self._is_code = True
        if self._is_code:
            held = " " * self._spaces + self._word
            self._spaces, self._word = 0, ""
            return held + character
        cells, is_space = cell_len(character), character == " "
        shown = self._place() if self._word and (is_space or cells == WIDE) else ""
        if is_space:
            self._spaces += 1
            return shown
        self._word += character
        length = self._spaces + len(self._word)
        is_mark = cells == 0 and length == 1  # of the character before it
        is_long = length > self._columns
        return shown + self._place() if cells == WIDE or is_mark or is_long else shown

    def _place(self) -> str:
        """What is held back, on this line or the next. Of spaces that a line ends with, those that fit."""
        spaces, word = self._spaces, self._word
        self._spaces, self._word = 0, ""
        cells, is_after_wide = cell_len(word), self._is_after_wide
        self._is_after_wide = (cells == WIDE and len(word) == 1) or (is_after_wide and not cells)
        end = self._column + spaces + cells
        if 0 < self._columns < end and self._column:
            if not word:
                return ""
            if spaces or is_after_wide or self._is_after_wide:
                self._column = self._folded(cells)
                return f"\n{word}"
        self._column = self._folded(end)
        return " " * spaces + word

    def _folded(self, cells: int) -> int:
        """The column after so many cells from the start of a line, which the terminal folds if they do not fit."""
        return (cells - 1) % self._columns + 1 if cells and self._columns else cells
