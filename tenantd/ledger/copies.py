"""Copies of the ledger: backups while it is in use, and one before each upgrade.

A copy is one snapshot, made by SQLite's backup in steps. It appears under its name when it is complete and on disk, is
readable only by its owner, and replaces no file unless it says so.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tenantd.errors import ConfigError, LedgerDamaged, LedgerUnavailable, TenantdError, UnusableFile
from tenantd.ledger.check import find_damage
from tenantd.ledger.database import FILE_MODE, connect_reader, explain
from tenantd.ledger.files import LOG_SUFFIX
from tenantd.ledger.long_reads import long_read

log = logging.getLogger(__name__)

STEP_PAGES: Final = 2048
"""8 MiB with SQLite's usual pages."""
SUFFIX: Final = ".db"
SPARE_BYTES: Final = 16 * 1024 * 1024
_HAS_LOG: Final = b"\x02\x02"
"""Bytes 18 and 19 of a database with a write-ahead log."""
Progress = Callable[[int, int], None]
"""Is told how many pages are copied, and how many there are."""


def no_progress(done: int, of: int) -> None:
    """Tells nobody."""


def back_up(ledger: Path, target: Path, busy_timeout_ms: int, on_progress: Progress = no_progress) -> Path:
    """Copy a ledger, which may be in use, to a new file, or into a folder. Returns the file.

    Raises ConfigError if there is no ledger, UnusableFile if `target` cannot be one, LedgerUnavailable, LedgerDamaged
    if the copy is.
    """
    if not ledger.exists():
        raise ConfigError(f"{ledger}: no such file; pass --state-dir DIR")
    check_target(target)
    need_room(target.parent, ledger_bytes(ledger), f"a copy of {ledger}")
    try:
        with closing(connect_reader(ledger, busy_timeout_ms)) as conn, long_read(ledger):
            begin_snapshot(conn)
            copy(conn, target, on_progress)
    except sqlite3.Error as e:
        raise LedgerUnavailable(f"cannot back up the ledger: {explain(e, ledger)}") from e
    if damage := damage_of(target):
        target.rename(bad := target.with_name(target.name + ".damaged"))
        raise LedgerDamaged(f"the ledger is damaged, and so is its copy, {bad}: {damage}")
    return target


def check_target(target: Path) -> None:
    """Raises UnusableFile if a backup cannot be made under this name, or was hardly meant to."""
    if os.path.lexists(target):
        raise UnusableFile(f"{target} exists, and a backup never overwrites a file; choose another name")
    if target.parent.exists() and not target.parent.is_dir():
        raise UnusableFile(f"{target.parent} is a file, not a folder; choose another name")
    if not target.parent.is_dir():
        raise UnusableFile(f"{target.parent}: no such folder; create it first")
    if target.suffix != SUFFIX:  # such as the folder of a disk that is not mounted
        raise UnusableFile(f"{target}: no such folder; create it first, or name a file that ends in {SUFFIX}")


def copy(
    conn: sqlite3.Connection, target: Path, on_progress: Progress = no_progress, *, replaces: bool = False
) -> None:
    """Copy what a connection sees. It should have a transaction open, or changes meanwhile make it begin anew.

    Raises sqlite3.Error, UnusableFile if the target exists and is not replaced, ConfigError if it cannot be written.
    """
    part = target.with_name(f"{target.name}.part" if replaces else f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        if replaces:  # then nobody else writes it; other copies may be under way beside each other
            part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE))
        try:
            _fill(conn, part, on_progress)
            sync(part)
            if replaces:
                os.replace(part, target)
            else:
                _put(part, target)
            with suppress(OSError):  # some network shares cannot
                sync(target.parent)
        finally:
            for leftover in (part, *(part.with_name(part.name + end) for end in ("-journal", LOG_SUFFIX, "-shm"))):
                leftover.unlink(missing_ok=True)
    except FileExistsError:
        raise UnusableFile(f"{target} exists, and is not overwritten; choose another name") from None
    except OSError as e:
        raise ConfigError(f"cannot write {target}: {e.strerror}") from e


def put_in_place(ready: Path, ledger: Path) -> None:
    """Put a ledger in the place of another, whose log is not its own. Raises OSError."""
    for suffix in (LOG_SUFFIX, "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
    os.replace(ready, ledger)
    sync(ledger.parent)


def _put(part: Path, target: Path) -> None:
    """Give a file its name, which is no other file's. Raises OSError, FileExistsError if it is."""
    try:
        os.link(part, target)  # unlike rename, this never replaces a file
    except FileExistsError:
        raise
    except OSError:  # FAT and some network shares have no links: take the name first, and replace what took it
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE))
        try:
            os.replace(part, target)
        except OSError:
            target.unlink(missing_ok=True)
            raise


def _fill(conn: sqlite3.Connection, part: Path, on_progress: Progress) -> None:
    with closing(sqlite3.connect(part, isolation_level=None)) as copied:
        copied.execute("PRAGMA synchronous = OFF")  # it is of use only once it is complete, and is written to disk then
        try:
            conn.backup(copied, pages=STEP_PAGES, progress=lambda _, left, of: on_progress(of - left, of), sleep=0)
            copied.execute("PRAGMA journal_mode = DELETE")  # tells it from a plain copy, which may lack the log
        except sqlite3.Error as e:
            raise ConfigError(f"cannot write the copy: {explain(e, part)}") from e


def copy_before_upgrade(conn: sqlite3.Connection, path: Path, version: int) -> Path:
    """Copy a ledger of schema `version` beside it, in place of an earlier copy. Nobody else writes it.

    Raises ConfigError if there is no room for it: a ledger is not upgraded without a way back.
    """
    target = path.with_name(f"{path.name}.schema{version}.bak")
    try:
        need_room(path.parent, ledger_bytes(path), f"a copy of {path} from before its upgrade")
    except TenantdError as e:
        raise ConfigError(
            f"{e.message}. If you have a backup elsewhere, set ledger.copy_before_upgrade = false instead"
        ) from None
    log.info("copying %s to %s before its upgrade", path, target)
    copy(conn, target, replaces=True)
    log.info("to go back: stop tenantd, install the previous version and run: tenantctl ledger restore %s", target)
    return target


def need_room(folder: Path, size_bytes: int, what: str) -> None:
    """Raises ConfigError if the disk of a folder has less room."""
    free = shutil.disk_usage(folder).free
    if free < size_bytes + SPARE_BYTES:
        lacking = (size_bytes + SPARE_BYTES - free + 999_999) // 1_000_000
        raise ConfigError(f"the disk of {folder} has no room for {what}: free another {lacking} MB")


def ledger_bytes(path: Path) -> int:
    """Size of a ledger with its write-ahead log."""
    log_path = path.with_name(path.name + LOG_SUFFIX)
    return path.stat().st_size + (log_path.stat().st_size if log_path.exists() else 0)


def open_copy(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    """A reading connection to a ledger that nobody writes, without creating files beside it. Raises sqlite3.Error."""
    if path.with_name(path.name + LOG_SUFFIX).exists():
        return connect_reader(path, busy_timeout_ms)
    return sqlite3.connect(readable_name(path), uri=True, isolation_level=None)


def readable_name(path: Path) -> str:
    """The name under which SQLite opens a ledger that nobody writes for reading, without creating files beside it."""
    has_log = path.with_name(path.name + LOG_SUFFIX).exists()
    return f"file:{quote(str(path.absolute()))}?mode=ro{'' if has_log else '&immutable=1'}"


def is_plain(path: Path) -> bool:
    """Whether a ledger's file, without a log beside it, was not made by `copy`: what was in its log may be missing."""
    with path.open("rb") as file:
        header = file.read(20)
    return header[18:20] == _HAS_LOG and not path.with_name(path.name + LOG_SUFFIX).exists()


def begin_snapshot(conn: sqlite3.Connection) -> None:
    """Begin a transaction and read something, which fixes what all that follows sees."""
    conn.execute("BEGIN")
    conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def damage_of(path: Path) -> str:
    """What is damaged in a copy; "" if nothing."""
    with closing(open_copy(path, 0)) as conn:
        return find_damage(conn, path)


def sync(path: Path) -> None:
    """Write a file or folder to disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
