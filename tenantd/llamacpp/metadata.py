"""Reads the metadata of GGUF files without llama.cpp, within limits, whatever lengths and counts a file claims.

The format is that of ggml's docs/gguf.md, versions 2 and 3: magic, version, number of tensors, number of keys; then the
keys with typed values, then the names, shapes, types and places of tensors.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Final, NamedTuple

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
STRING: Final = 8
ARRAY: Final = 9
_FORMATS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How the struct module writes each type of number."""
BLOCK_BYTES: Final = 1 << 20
USUAL_TEXT_BYTES: Final = 64
"""Of a list, with the length before it. Blocks are no larger than a list is likely to be."""
MOST_TEXT_BYTES: Final = 1 << 22
"""Of a text that is kept. The longest are chat templates, of some tens of kilobytes."""
MOST_DIMENSIONS: Final = 4  # ggml.h, GGML_MAX_DIMS
Value = str | int | float | bool


class Unreadable(Exception):
    """The metadata cannot be read; the message tells why."""


class Tensor(NamedTuple):
    """Its name, how many values it has, and where in the file it begins, counted from the first one."""

    name: str
    values: int
    offset: int


class Metadata:
    """Reads the file once, from its start. All methods raise Unreadable.

    `most_bytes` limits how far, including what is skipped; `too_long` is what to say then. `most_texts` limits how many
    texts of lists are skipped, because each takes time.
    """

    def __init__(self, file: BinaryIO, most_bytes: int, too_long: str, most_texts: int = 1 << 22) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0
        self._most_bytes = most_bytes
        self._too_long = too_long
        self._texts_left = most_texts
        self.take(len(MAGIC))
        if self.integer(4) not in VERSIONS:
            raise Unreadable("a GGUF version that llama.cpp does not support")
        self.tensors = self.integer(8)
        self.keys = self.integer(8)

    @property
    def position(self) -> int:
        """How far the file has been read, in bytes."""
        return self._at

    def key(self) -> tuple[str, int]:
        """The next key and the type of its value."""
        return self.text(), self.integer(4)

    def value(self, kind: int) -> Value:
        """A value that is not a list."""
        if kind == STRING:
            return self.text()
        found: Value = struct.unpack(f"<{_format(kind)}", self.take(_size(kind)))[0]
        return found

    def skip(self, kind: int) -> None:
        """Go past a value of any type."""
        if kind == STRING:
            self._go(self.integer(8))
        elif kind != ARRAY:
            self._go(_size(kind))
        else:
            kind, count = self.integer(4), self.integer(8)
            if kind == STRING:
                self._skip_texts(count)
            else:
                self._go(_size(kind) * count)

    def tensor(self) -> Tensor:
        """The next tensor; they come after the keys."""
        name = self.text()
        if (dimensions := self.integer(4)) > MOST_DIMENSIONS:
            raise Unreadable(f"damaged: it has a tensor of {dimensions} dimensions")
        values = 1
        for _ in range(dimensions):
            values *= self.integer(8)
        self._go(4)  # its type
        return Tensor(name, values, self.integer(8))

    def text(self) -> str:
        """Bytes that are not UTF-8 are replaced."""
        if (size := self.integer(8)) > MOST_TEXT_BYTES:
            raise Unreadable(f"damaged: its metadata has a text of {size} bytes")
        return self.take(size).decode("utf-8", "replace")

    def integer(self, size: int) -> int:
        """An unsigned integer of 4 or 8 bytes."""
        return int.from_bytes(self.take(size), "little")

    def take(self, size: int) -> bytes:
        """The next bytes."""
        self._count(size)
        data = self._file.read(size)
        if len(data) < size:  # it was cut off meanwhile
            raise Unreadable("truncated: it ends within its metadata; download it again")
        return data

    def _go(self, size: int) -> None:
        self._count(size)
        self._file.seek(self._at)

    def _count(self, size: int) -> None:
        """Count bytes that are about to be read or skipped."""
        self._at += size
        if self._at > self._most_bytes:
            raise Unreadable(self._too_long)
        if self._at > self._size:
            raise Unreadable("truncated: it ends within its metadata; download it again")

    def _skip_texts(self, count: int) -> None:
        """Go past texts of a list, in blocks: a vocabulary has hundreds of thousands."""
        self._texts_left -= count
        if self._texts_left < 0:
            self._go(8 * count)  # each has a length at least
            raise Unreadable(self._too_long)
        while count:
            block = self._file.read(min(BLOCK_BYTES, USUAL_TEXT_BYTES * count))
            at = 0
            while count and at + 8 <= len(block):
                at += 8 + int.from_bytes(block[at : at + 8], "little")
                count -= 1
            if not at:
                raise Unreadable("truncated: it ends within its metadata; download it again")
            self._go(at)


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise Unreadable(f"damaged: its metadata has a value of type {kind}")
    return _FORMATS[kind]


def _size(kind: int) -> int:
    return struct.calcsize(f"<{_format(kind)}")
