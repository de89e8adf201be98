"""Settlements that could not be written before a shutdown: one JSON object per line, in a file beside the ledger.

The next start reads them. A line contains everything in a row, so it also works with a ledger that was restored
from a backup meanwhile. Requests that are already settled are skipped, so reading the file twice changes nothing. But a
line is better than the checkpoint that an interrupted request was settled from, so it replaces that, except on a
finalised invoice. Lines that cannot be used are kept in a file of their own.

Entries of the audit trail that could not be written are lines of the same file. They may be in the trail already: the
writer goes on trying after they were set aside, and a start may be killed before it has deleted the file. So an entry
that is among the newest ones, all its columns alike, is skipped.

The disk may be full by then, so some room on it is kept in reserve while the daemon runs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from tenantd.domain import FinishReason
from tenantd.errors import Conflict, TenantdError
from tenantd.ledger.audit import SETTLED_LATE, AuditBroken, Columns, Entry, about_request, append, columns, newest
from tenantd.ledger.charging import is_invoiced
from tenantd.ledger.database import FILE_MODE, is_trouble
from tenantd.ledger.records import Admitted, Settlement
from tenantd.ledger.requests import get_request, insert_request, reopen_interrupted, settle_request, state_of
from tenantd.ledger.rows_kept import Pruned
from tenantd.ledger.tenant_ids import add_unknown
from tenantd.periods import UTC_ZONE

log = logging.getLogger(__name__)

FILE_NAME: Final = "unsettled.jsonl"
REJECTED_NAME: Final = "unsettled.rejected.jsonl"
RESERVE_NAME: Final = "unsettled.reserve"
RESERVE_BYTES: Final = 1024 * 1024
"""Enough for about two thousand lines."""
LARGEST_ID: Final = 2**53
"""No line may use up the ids, which only ever grow."""
RECENT_ENTRIES: Final = 100_000
"""An entry that was set aside and written after all is among this many newest ones: far fewer can wait at a stop."""


class Unsettled(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a settlement and its entry for the audit trail, or one of them.

    Without `admission` a settlement can be used only if the request has a row.
    """

    settlement: Settlement | None = None
    admission: Admitted | None = None
    entry: Entry | None = None


_decode = msgspec.json.Decoder(Unsettled).decode


def keep_reserve(folder: Path) -> None:
    """Occupy the room on the disk that `set_aside` frees. Logs a warning if there is none."""
    path = folder / RESERVE_NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        finally:
            os.close(fd)
    except OSError as e:
        log.warning("cannot reserve %d bytes for %s: %s; a stop needs them if the disk is full", RESERVE_BYTES, path, e)


def set_aside(folder: Path, records: Iterable[Unsettled]) -> int:
    """Append settlements to the file. If that fails, log the lines instead, and return how many these are."""
    lines = [_line(record) for record in records]
    if not _is_appended(folder, lines):
        return len(lines)
    if lines:
        log.warning(
            "%d requests could not be settled; the next start settles them from %s", len(lines), folder / FILE_NAME
        )
    return 0


def set_entries_aside(folder: Path, entries: Iterable[Entry]) -> None:
    """Append entries of the audit trail to the file. If that fails, log the lines instead."""
    lines = [_line(Unsettled(entry=entry)) for entry in entries]
    if _is_appended(folder, lines) and lines:
        log.warning(
            "%d entries of the audit trail could not be written; the next start writes them from %s",
            len(lines),
            folder / FILE_NAME,
        )


def _line(record: Unsettled) -> bytes:
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError:  # a lone surrogate, which would not be read again: it becomes "?"
        return json.dumps(msgspec.to_builtins(record), ensure_ascii=False).encode("utf-8", "replace")


def _is_appended(folder: Path, lines: list[bytes]) -> bool:
    """Whether the lines are in the file now; otherwise they are in the log."""
    if not lines:
        return True
    path = folder / FILE_NAME
    try:
        _free_reserve(folder)
        _append(path, lines)
    except OSError as e:
        log.error("cannot write %s: %s; add these lines to it while tenantd is stopped", path, e.strerror)
        for line in lines:
            log.error("%s", line.decode())
        return False
    return True


class TakenIn:
    """What a start finds in the file. Call `settle` inside the transaction that opens the ledger, `discard` after
    it."""

    def __init__(self, folder: Path, *, audits: bool = True) -> None:
        """Reads the file. Raises OSError. `audits`: whether entries are recorded."""
        self.settled = 0
        self._audits = audits
        self.rejected: list[bytes] = []
        self._path = folder / FILE_NAME
        self._owners: dict[int, int] = {}  # ids in lines to those of the tenants made for them
        self._timezone = UTC_ZONE
        self._recent: Counter[Columns] | None = None  # newest entries of the trail, once they were needed
        try:
            self._lines = [line for line in self._path.read_bytes().splitlines() if line]
        except FileNotFoundError:
            self._lines = []

    def settle(self, conn: sqlite3.Connection, now_micros: int, timezone: ZoneInfo = UTC_ZONE) -> None:
        """Settle what is not settled yet; `timezone` is that of billing periods. Raises sqlite3.Error for trouble, and
        keeps unusable lines separately."""
        self._timezone = timezone
        for line in self._lines:
            conn.execute("SAVEPOINT line")
            try:
                self._take(conn, _decode(line), now_micros)
            except (TenantdError, sqlite3.Error, OverflowError, ValueError, RecursionError) as e:
                if isinstance(e, AuditBroken) or (isinstance(e, sqlite3.Error) and is_trouble(e)):
                    raise
                log.error("%s: cannot settle a line: %s", self._path, e)
                self.rejected.append(line)
                conn.execute("ROLLBACK TO line")
            conn.execute("RELEASE line")

    def _take(self, conn: sqlite3.Connection, record: Unsettled, now_micros: int) -> None:
        entry = record.entry
        if record.settlement is None:
            if entry is None:
                raise ValueError("it holds neither a settlement nor an entry")
            if self._is_written(conn, entry):
                return
        elif not self._settle(conn, record.settlement, record.admission):
            return
        else:
            row = get_request(conn, record.settlement.id)
            entry = entry or about_request(SETTLED_LATE, row, now_micros)
        if self._audits:
            append(conn, [entry])
        self.settled += record.settlement is not None

    def _is_written(self, conn: sqlite3.Connection, entry: Entry) -> bool:
        """Whether the trail has held this entry since before this start. Each entry there stands for one line."""
        if not self._audits:
            return False
        if self._recent is None:
            self._recent = newest(conn, RECENT_ENTRIES)
        row = columns(entry)
        if not self._recent[row]:
            return False
        self._recent[row] -= 1
        return True

    def _settle(self, conn: sqlite3.Connection, settlement: Settlement, admission: Admitted | None) -> bool:
        """Settle one line. False if its request is settled for good. Raises Conflict if that cannot be known, or if a
        finalised invoice has the request."""
        state = state_of(conn, settlement.id)
        owner = None
        if state is None and admission is not None:
            if admission.created_micros < Pruned(conn).until_micros:
                raise Conflict(f"rows of the time of request {settlement.id!r} were pruned, so it may be settled")
            owner = self._owner(conn, admission)
            insert_request(conn, msgspec.structs.replace(admission, tenant_id=owner))
        elif state == FinishReason.INTERRUPTED and settlement.state is not FinishReason.INTERRUPTED:
            if is_invoiced(conn, get_request(conn, settlement.id)):
                raise Conflict(f"request {settlement.id!r} is on a finalised invoice, so it stays interrupted")
            reopen_interrupted(conn, settlement.id, self._timezone)
        elif state not in (None, "running"):
            return False
        settle_request(conn, settlement, self._timezone)
        if owner is not None and admission is not None and admission.tenant_id is not None:
            self._owners[admission.tenant_id] = owner  # not earlier, because a line that fails is undone
        return True

    def _owner(self, conn: sqlite3.Connection, admission: Admitted) -> int:
        """The id of its tenant in this ledger.

        A ledger restored from a backup may lack that tenant, and give its id to another: then the request is that of a
        removed tenant, made for all lines with this id, and on nobody else's bill. The removed tenant keeps the id if
        no other has it. Before schema 6 a name was given once and was enough.
        """
        name, number = admission.tenant, admission.tenant_id
        query = "SELECT id FROM tenants WHERE name = ? AND id = coalesce(?, id)"
        row = conn.execute(query, (name, number)).fetchone()
        if row is not None:
            return int(row[0])
        if number in self._owners:
            return self._owners[number]
        is_free = number is not None and 0 < number < LARGEST_ID and not _is_known(conn, number)
        return add_unknown(conn, name, admission.created_micros, number if is_free else None)

    def discard(self) -> None:
        """Delete the file, because everything is in the ledger, on disk. Raises OSError."""
        if not self._lines:
            return
        if self.rejected:
            _append(self._path.with_name(REJECTED_NAME), self.rejected)
        self._path.unlink()
        _sync_folder(self._path.parent)


def _is_known(conn: sqlite3.Connection, number: int) -> bool:
    """Whether a tenant has this id, or has had it: somebody may have deleted its row."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM tenants WHERE id = ?1) OR EXISTS (SELECT 1 FROM requests WHERE tenant_id = ?1)"
    )
    return bool(conn.execute(query, (number,)).fetchone()[0])


def _free_reserve(folder: Path) -> None:
    with contextlib.suppress(OSError):  # then there is as much room as there is
        (folder / RESERVE_NAME).unlink()
        _sync_folder(folder)  # some file systems give the room back only now


def _append(path: Path, lines: list[bytes]) -> None:
    """Write durably. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    with open(fd, "wb") as file:
        file.write(b"\n" + b"\n".join(lines) + b"\n")  # the first newline ends a line that was cut off earlier
        file.flush()
        os.fsync(fd)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
