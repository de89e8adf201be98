"""What tells one model file from another, without reading all of it: `system_fingerprint` in answers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

HEAD_BYTES: Final = 1 << 20
PAGES: Final = 256
PAGE_BYTES: Final = 4096
DIGITS: Final = 12


def fingerprint(path: Path, llama_version: str) -> str:
    """`fp_` and 12 hexadecimal digits: of llama.cpp's version, the file's size, its first MiB (names, tokens, shapes)
    and 256 pages spread evenly over all of it, so over the weights. At most 2 MiB are read. Raises OSError."""
    hashed = hashlib.sha256(llama_version.encode())
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        hashed.update(b"%d" % size)
        hashed.update(file.read(HEAD_BYTES))
        for number in range(PAGES):
            file.seek(max(0, size - PAGE_BYTES) * number // (PAGES - 1))
            hashed.update(file.read(PAGE_BYTES))
    return f"fp_{hashed.hexdigest()[:DIGITS]}"
