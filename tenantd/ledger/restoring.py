"""Puts a backup in the place of the ledger, while the daemon is stopped, and tells before what is lost by that.

What a backup lacks is known from the present ledger, and from the head of the audit trail that was kept elsewhere
(`security.anchor`) even if that ledger is gone. The present ledger is kept beside the restored one.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from tenantd.errors import ConfigError, LedgerDamaged, LedgerUnavailable, TenantdError, UnusableFile
from tenantd.ledger.anchored import Anchors
from tenantd.ledger.audit import RESTORED, Entry, append, read_head
from tenantd.ledger.copies import (
    Progress,
    begin_snapshot,
    copy,
    damage_of,
    is_plain,
    ledger_bytes,
    need_room,
    no_progress,
    put_in_place,
    readable_name,
    sync,
)
from tenantd.ledger.copies import open_copy as open_ledger
from tenantd.ledger.database import connect_writer, explain, is_damage, truncate_log
from tenantd.ledger.files import LOG_SUFFIX, dated
from tenantd.ledger.half_done import RESTORED as READY
from tenantd.ledger.half_done import undo_half_done
from tenantd.ledger.migrations import APPLICATION_ID, VERSION

BUSY_TIMEOUT_MS: Final = 1000
FIRST_AUDITED: Final = 7
MOST_IDS: Final = 1000
_LACKING: Final = "NOT EXISTS (SELECT 1 FROM backup.requests AS other WHERE other.id = own.id)"
_ENTRY: Final = """SELECT own.hash, other.hash FROM main.audit AS own, backup.audit AS other
    WHERE own.number = ? AND other.number = ?"""
_REQUEST: Final = """SELECT own.id, other.id FROM main.requests AS own, backup.requests AS other
    WHERE own.number = ? AND other.number = ?"""
_TENANTS: Final = """SELECT 1 FROM main.tenants AS own JOIN backup.tenants AS other ON other.id = own.id
    WHERE other.created_micros <> own.created_micros"""
_TABLES: Final = "SELECT name FROM sqlite_schema WHERE type = 'table'"


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a ledger holds: numbers of the newest request, invoice and entry of the audit trail, 0 without.

    `requests` counts them, without those that were pruned. `newest_micros` is when the newest was created.
    """

    schema: int
    requests: int
    request: int
    newest_micros: int
    invoice: int
    entry: int
    hash: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A backup next to the present ledger, None if that is missing, or cannot be read because of `trouble`.

    What only the present one has would be lost: `lost_ids` are its newest requests, at most MOST_IDS. `is_other`: the
    backup is of another ledger, or they have parted, or a trail was rewritten. `has_log`: what the log beside the
    backup holds is part of it. `is_plain`: it was not made by `ledger backup`, and a log it may have had is missing.
    `anchored` is the newest entry that was anchored.
    """

    backup: Content
    present: Content | None
    trouble: str = ""
    is_other: bool = False
    anchored: int = 0
    has_log: bool = False
    is_plain: bool = False
    lost_requests: int = 0
    lost_ids: list[str] = []
    lost_invoices: list[int] = []
    lost_entries: int = 0


def compare(backup: Path, ledger: Path, anchors: Anchors | None = None) -> Comparison:
    """Raises UnusableFile if the backup is missing or no ledger, ConfigError if this version cannot use it,
    LedgerDamaged, LedgerUnavailable if it cannot be read."""
    found = content_of_file(backup)
    if ledger.exists() and backup.samefile(ledger):
        raise UnusableFile(f"{backup} is the current ledger itself; name a backup of it")
    if damage := damage_of(backup):
        raise LedgerDamaged(f"this backup cannot be used: {damage}")
    anchored = 0 if anchors is None else max(anchors.heads, default=0)
    alone = Comparison(
        backup=found,
        present=None,
        anchored=anchored,
        has_log=_has_log(backup),
        is_plain=is_plain(backup),
        lost_entries=max(0, anchored - found.entry),
    )
    if not ledger.exists():
        return alone
    try:
        with closing(open_ledger(ledger, BUSY_TIMEOUT_MS)) as conn:
            conn.execute("ATTACH ? AS backup", (readable_name(backup),))
            begin_snapshot(conn)
            return _compared(conn, content_of(conn, ledger), alone)
    except (sqlite3.Error, TenantdError) as e:
        trouble = e.message if isinstance(e, TenantdError) else explain(e, ledger)
        return msgspec.structs.replace(alone, trouble=trouble)


def _has_log(path: Path) -> bool:
    log_path = path.with_name(path.name + LOG_SUFFIX)
    return log_path.exists() and log_path.stat().st_size > 0


def content_of_file(path: Path) -> Content:
    """What a ledger holds that nobody writes. Raises UnusableFile, ConfigError, LedgerUnavailable, LedgerDamaged."""
    if path.is_dir():
        raise UnusableFile(f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise UnusableFile(f"{path}: no such file")
    try:
        with closing(open_ledger(path, BUSY_TIMEOUT_MS)) as conn:
            begin_snapshot(conn)
            return content_of(conn, path)
    except sqlite3.Error as e:
        if getattr(e, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
            raise UnusableFile(f"{path} is not a ledger of tenantd") from e
        if is_damage(e):
            raise LedgerDamaged(f"this backup cannot be used: {explain(e, path)}") from e
        raise LedgerUnavailable(f"cannot read the backup: {explain(e, path)}") from e


def content_of(conn: sqlite3.Connection, path: Path) -> Content:
    """Raises UnusableFile if it is not a ledger, ConfigError if this version cannot use it."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise UnusableFile(f"{path} is not a ledger of tenantd")
    if not 0 < version <= VERSION:
        raise ConfigError(f"{path} has schema {version}, and this version knows {VERSION}: install a newer tenantd")
    tables = {name for (name,) in conn.execute(_TABLES)}
    requests, request, newest_micros = conn.execute(
        "SELECT count(*), coalesce(max(number), 0), coalesce(max(created_micros), 0) FROM requests"
    ).fetchone()
    invoice = conn.execute("SELECT max(number) FROM invoices").fetchone()[0] if "invoices" in tables else None
    head = read_head(conn) if "audit_head" in tables else None
    return Content(
        schema=version,
        requests=requests,
        request=request,
        newest_micros=newest_micros,
        invoice=invoice or 0,
        entry=0 if head is None else head.number,
        hash="" if head is None else head.hash.hex(),
    )


def _compared(conn: sqlite3.Connection, present: Content, alone: Comparison) -> Comparison:
    """`conn` is to the present ledger, with the backup attached."""
    found = alone.backup
    is_other = _parted(conn, found, present)
    lacking = _LACKING if is_other else f"number > {found.request}"
    (requests,) = conn.execute(f"SELECT count(*) FROM main.requests AS own WHERE {lacking}").fetchone()
    newest = f"SELECT id FROM main.requests AS own WHERE {lacking} ORDER BY number DESC LIMIT {MOST_IDS}"
    return msgspec.structs.replace(
        alone,
        present=present,
        is_other=is_other,
        lost_requests=requests,
        lost_ids=[name for (name,) in conn.execute(newest)],
        lost_invoices=list(range(1 if is_other else found.invoice + 1, present.invoice + 1)),
        lost_entries=max(0, max(present.entry, alone.anchored) - (0 if is_other else found.entry)),
    )


def _parted(conn: sqlite3.Connection, backup: Content, present: Content) -> bool:
    """Whether the two ledgers differ in what both should have: the newest entry of the trail, request and tenants that
    the older one has."""
    pairs = [(_REQUEST, min(backup.request, present.request))]
    if min(backup.schema, present.schema) >= FIRST_AUDITED:
        pairs.append((_ENTRY, min(backup.entry, present.entry)))
        if conn.execute(_TENANTS).fetchone() is not None:
            return True
    return any(
        number and (pair := conn.execute(query, (number, number)).fetchone()) is not None and pair[0] != pair[1]
        for query, number in pairs
    )


def restore(
    backup: Path, ledger: Path, compared: Comparison, now_micros: int, on_progress: Progress = no_progress
) -> Path | None:
    """Put a copy of the backup in the place of the ledger. Returns where the present ledger is kept, None without one.

    The caller holds the lock of the state folder. At every moment there is a complete ledger. An entry of the audit
    trail tells of it, if the backup has one. Raises ConfigError, LedgerUnavailable.
    """
    need_room(ledger.parent, ledger_bytes(backup), f"a copy of {backup}")
    ready = ledger.with_name(ledger.name + READY)
    try:
        undo_half_done(ledger)
        with closing(open_ledger(backup, BUSY_TIMEOUT_MS)) as conn:
            begin_snapshot(conn)
            copy(conn, ready, on_progress, replaces=True)
        if compared.backup.schema >= FIRST_AUDITED:
            _record(ready, compared, now_micros)
        os.utime(ready, ns=(time.time_ns(), backup.stat().st_mtime_ns))  # what ran then has ended when it last wrote
        kept = _keep_aside(ledger) if ledger.exists() else None
        put_in_place(ready, ledger)
    except sqlite3.Error as e:
        raise LedgerUnavailable(f"cannot restore the ledger: {explain(e, ledger)}") from e
    except OSError as e:
        raise ConfigError(f"cannot restore the ledger: {e.filename}: {e.strerror}") from e
    return kept


def _record(ready: Path, compared: Comparison, now_micros: int) -> None:
    """Tell in the restored trail that it was restored, and from which one. Raises sqlite3.Error."""
    present = compared.present
    detail = {
        "backup_entry": compared.backup.entry,
        "by": {"uid": os.getuid(), "pid": os.getpid(), "key_id": None},
        "lost_invoices": compared.lost_invoices,
        "lost_requests": compared.lost_requests,
        "replaced_entry": None if present is None else present.entry,
        "replaced_hash": None if present is None else present.hash,
    }
    with closing(connect_writer(ready, BUSY_TIMEOUT_MS)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        append(conn, [Entry(at_micros=now_micros, event=RESTORED, detail=detail)])
        conn.execute("COMMIT")
        truncate_log(conn, 0, BUSY_TIMEOUT_MS)
    sync(ready)


def _keep_aside(ledger: Path) -> Path:
    """Give the present ledger a second name, with its log if that cannot be emptied. Raises OSError."""
    kept = dated(ledger.parent, f"{ledger.name}.replaced")
    try:
        with closing(connect_writer(ledger, BUSY_TIMEOUT_MS)) as conn:
            truncate_log(conn, 0, BUSY_TIMEOUT_MS)
    except (sqlite3.Error, LedgerUnavailable, ConfigError):  # it is damaged; then the log is kept as it is
        pass
    os.link(ledger, kept)
    log_path = ledger.with_name(ledger.name + LOG_SUFFIX)
    if log_path.exists() and log_path.stat().st_size:
        os.link(log_path, kept.with_name(kept.name + LOG_SUFFIX))
    sync(ledger.parent)
    return kept
