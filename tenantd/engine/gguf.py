"""What can be said of a GGUF file without llama.cpp."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

MAGIC: Final = b"GGUF"


class NotGguf(Exception):
    """The message says what is wrong with the file, its path first."""


def check_gguf(path: Path) -> None:
    """Raises NotGguf for what is not there, not readable, or something else."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise NotGguf(f"{path}: is a folder; name a GGUF file in it")
        if not stat.S_ISREG(mode):  # opening a named pipe would wait for ever
            raise NotGguf(f"{path}: not a regular file; name a GGUF file")
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise NotGguf(f"{path}: no such file; name a GGUF file") from None
    except OSError as e:
        raise NotGguf(f"{path}: cannot be read: {e.strerror}") from e
    if magic != MAGIC:
        raise NotGguf(f"{path}: not a GGUF file (it begins with {magic!r}, not {MAGIC!r})")
