"""Rows of fixed columns: cut, aligned, and left out by priority where the terminal is narrow. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from tenantd.printable import one_line

ROOMY: Final = 100
"""Width from which on columns are two cells apart."""


@dataclass(frozen=True)
class Column:
    """`width` in cells. Columns with a `spare` above 0 are left out if there is no room, those with the highest first.
    The one that `grows` takes what room is left."""

    name: str
    width: int
    is_right: bool = True
    spare: int = 0
    grows: bool = False


class Grid:
    """The columns that have room in a width."""

    def __init__(self, columns: Sequence[Column], width: int) -> None:
        self._blank = " " * (2 if width >= ROOMY else 1)
        self._kept = list(range(len(columns)))
        self._columns = list(columns)
        while self._width() > width and (spare := max(columns[i].spare for i in self._kept)):
            self._kept = [i for i in self._kept if columns[i].spare != spare]
        room = max(0, width - self._width())
        self._sizes = [columns[i].width + (room if columns[i].grows else 0) for i in self._kept]

    def head(self) -> Text:
        """The names of the columns."""
        return self.row([Text(column.name, "bold") for column in self._columns])

    def row(self, cells: Sequence[Text | str]) -> Text:
        """One row, from a cell for each column, also for those that are left out."""
        kept = zip(self._kept, self._sizes, strict=True)
        return Text(self._blank).join(fitted(cells[i], size, is_right=self._columns[i].is_right) for i, size in kept)

    def _width(self) -> int:
        return sum(self._columns[i].width for i in self._kept) + len(self._blank) * (len(self._kept) - 1)


def fitted(cell: Text | str, size: int, *, is_right: bool = False) -> Text:
    """A cell that is exactly `size` wide."""
    text = cell.copy() if isinstance(cell, Text) else Text(one_line(cell))
    text.truncate(size, overflow="ellipsis")
    blank = " " * (size - cell_len(text.plain))
    return Text.assemble(blank, text) if is_right else Text.assemble(text, blank)


def window(items: Sequence[str], selected: str | None, most: int) -> range:
    """Which of them to show: at most `most` in a row, with the selected one."""
    at = items.index(selected) if selected in items else 0
    first = max(0, min(at - most // 2, len(items) - most))
    return range(first, min(len(items), first + most))
