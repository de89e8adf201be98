"""Tells the writer that another process reads the ledger for longer than a report, as a backup and a check do.

The write-ahead log cannot be emptied meanwhile. The writer would wait for that in vain, and everybody for the writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tenantd.ledger.database import FILE_MODE

NAME: Final = "ledger.reading"


@contextmanager
def long_read(ledger: Path) -> Iterator[None]:
    """While this process reads. Where the file cannot be made, nobody writes the ledger either."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(ledger.with_name(NAME), flags, FILE_MODE)
            stack.callback(os.close, fd)  # which also unlocks it
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def is_read_at_length(ledger: Path) -> bool:
    """Whether some process is inside `long_read`."""
    try:
        fd = os.open(ledger.with_name(NAME), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
