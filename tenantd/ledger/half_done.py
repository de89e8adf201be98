"""Takes back what a restore or a renewal had begun that was killed: the ledger is still the one from before.

Both make a new file beside the ledger, give the present one a second name, under which it is kept, and then replace it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tenantd.ledger.files import LOG_SUFFIX

RESTORED: Final = ".restored"
RENEWED: Final = ".new"
"""What the new file is called until it is in place, after the name of the ledger."""
_BESIDE: Final = ("", LOG_SUFFIX, "-shm", "-journal")
_KEPT: Final = ("replaced-*", "renewed-*")


def undo_half_done(ledger: Path) -> None:
    """The caller holds the lock of the state folder, and nobody has the ledger open. Raises OSError."""
    remove_ready(ledger, RESTORED)
    remove_ready(ledger, RENEWED)
    if not ledger.exists() or ledger.stat().st_nlink == 1:
        return
    for pattern in _KEPT:
        for kept in ledger.parent.glob(f"{ledger.name}.{pattern}"):
            if not kept.name.endswith(_BESIDE[1:]) and kept.samefile(ledger):
                _join(kept, ledger)


def remove_ready(ledger: Path, suffix: str) -> None:
    """Remove a new file that did not get into its place, and what SQLite keeps beside it. Raises OSError."""
    for part in ("", ".part"):
        for beside in _BESIDE:
            ledger.with_name(f"{ledger.name}{suffix}{part}{beside}").unlink(missing_ok=True)


def _join(kept: Path, ledger: Path) -> None:
    """Take the second name away: a ledger that is opened under two names is damaged by it. Its log may be found only
    under that name, too."""
    kept_log, own_log = (path.with_name(path.name + LOG_SUFFIX) for path in (kept, ledger))
    if kept_log.exists() and not own_log.exists():
        os.rename(kept_log, own_log)
    kept_log.unlink(missing_ok=True)
    kept.unlink()
