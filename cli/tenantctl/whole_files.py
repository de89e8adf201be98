"""Files that are there whole or not at all, and that only their owner can read."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Final

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, or replace it. If that fails, the file stays as it was. Raises OSError with its path."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from None
    try:
        with open(fd, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(fd)
        os.replace(part, path)
    except OSError as e:
        part.unlink(missing_ok=True)
        raise OSError(e.errno, e.strerror, str(path)) from e
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def safe_name(text: str) -> str:
    """`text` as a part of a file's name."""
    return _UNSAFE.sub("_", text).lstrip(".") or "_"
