"""Checks GGUF files without llama.cpp: by their first bytes, within limits.

The format is that of ggml's docs/gguf.md, versions 2 and 3: magic, version, two counts, then keys with typed values.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, Final

from tenantd.errors import ModelError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_READ_BYTES: Final = 1 << 20
"""Maximum metadata to read, including skipped values. An adapter has a few hundred bytes."""
_STRING: Final = 8
_ARRAY: Final = 9
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of other types, in bytes


class NotGguf(Exception):
    """The message gives the path and tells what is wrong with the file."""


def check_gguf(path: Path) -> None:
    """Raises NotGguf if the file is missing, unreadable or something else."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise NotGguf(f"{path}: is a folder; choose a GGUF file in it")
        if not stat.S_ISREG(mode):  # opening a named pipe would block forever
            raise NotGguf(f"{path}: not a regular file; choose a GGUF file")
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise NotGguf(f"{path}: no such file; choose a GGUF file") from None
    except OSError as e:
        raise NotGguf(f"cannot read {path}: {e.strerror}") from e
    if magic != MAGIC:
        raise NotGguf(f"{path}: not a GGUF file (it starts with {magic!r} instead of {MAGIC!r})")


def check_adapter(path: Path) -> None:
    """Raises NotGguf if the file is not a LoRA adapter, e.g. a whole model. Does not check whether it fits the
    model."""
    check_gguf(path)
    try:
        with path.open("rb") as file:
            texts = _Reader(file).texts({"general.type", "adapter.type"})
    except OSError as e:
        raise NotGguf(f"cannot read {path}: {e.strerror}") from e
    except _Unreadable as e:
        raise NotGguf(f"{path}: {e}") from None
    kind = texts.get("general.type", "model")  # files older than this key are models
    if kind != "adapter":
        raise NotGguf(
            f"{path}: is a {kind[:40]}, not a LoRA adapter; pass a file written by llama.cpp's convert_lora_to_gguf.py"
        )
    if texts.get("adapter.type") != "lora":
        raise NotGguf(f"{path}: is an adapter, but not a LoRA adapter")


class _Unreadable(Exception):
    """The metadata cannot be read; the message tells why."""


class _Reader:
    """Reads the metadata once, at most MAX_READ_BYTES, whatever lengths the file claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_READ_BYTES

    def texts(self, wanted: Collection[str]) -> dict[str, str]:
        """The string values of these keys. Reads no further than the last of them. Raises _Unreadable."""
        found: dict[str, str] = {}
        self._take(len(MAGIC))
        if self._integer(4) not in VERSIONS:
            raise _Unreadable("a GGUF version that llama.cpp does not support")
        self._take(8)  # number of tensors
        for _ in range(self._integer(8)):
            if len(found) == len(wanted):
                break
            key, kind = self._text(), self._integer(4)
            if kind == _STRING:
                value = self._text()
                if key in wanted:
                    found[key] = value
            else:
                self._skip(kind)
        return found

    def _skip(self, kind: int) -> None:
        if kind != _ARRAY:
            self._take(self._size(kind))
            return
        kind, count = self._integer(4), self._integer(8)
        if kind != _STRING:
            self._take(self._size(kind) * count)
            return
        for _ in range(count):
            self._text()

    def _size(self, kind: int) -> int:
        if kind not in _SIZES:
            raise _Unreadable(f"damaged: its metadata has a value of type {kind}")
        return _SIZES[kind]

    def _text(self) -> str:
        return self._take(self._integer(8)).decode("utf-8", "replace")

    def _integer(self, size: int) -> int:
        value: int = struct.unpack("<I" if size == 4 else "<Q", self._take(size))[0]
        return value

    def _take(self, size: int) -> bytes:
        if size > self._left:
            raise _Unreadable("its metadata is too long for a LoRA adapter; it looks like a whole model")
        self._left -= size
        data = self._file.read(size)
        if len(data) < size:
            raise _Unreadable("truncated: it ends within its metadata")
        return data


def model_file(path: str) -> Path:
    """The path of a model, checked as far as possible without llama.cpp. Raises ModelError."""
    file = Path(path)
    try:
        check_gguf(file)
    except NotGguf as e:
        raise ModelError(f"{e} (model.path)") from e
    return file
