"""Settlements that could not be written before a shutdown: one JSON object per line, in a file beside the ledger.

The next start reads them. A line contains everything in a row, so it also works with a ledger that was restored
from a backup meanwhile. Requests that are already settled are skipped, so reading the file twice changes nothing.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from tenantd.errors import TenantdError
from tenantd.ledger.database import FILE_MODE, is_trouble
from tenantd.ledger.records import Admitted, Settlement
from tenantd.ledger.requests import insert_request, settle_request, state_of
from tenantd.ledger.tenant_ids import add_unknown

log = logging.getLogger(__name__)

FILE_NAME: Final = "unsettled.jsonl"
REJECTED_NAME: Final = "unsettled.rejected.jsonl"


class Unsettled(msgspec.Struct, frozen=True, kw_only=True):
    """One line. Without `admission` it can be used only if the request has a row."""

    settlement: Settlement
    admission: Admitted | None = None


_decode = msgspec.json.Decoder(Unsettled).decode


def set_aside(folder: Path, records: Iterable[Unsettled]) -> None:
    """Append settlements to the file. If that fails, log the lines instead."""
    lines = [msgspec.json.encode(record) for record in records]
    if not lines:
        return
    path = folder / FILE_NAME
    try:
        _append(path, lines)
    except OSError as e:
        log.error("cannot write %s: %s; add these lines to it before the next start", path, e.strerror)
        for line in lines:
            log.error("%s", line.decode())
    else:
        log.warning("%d requests could not be settled; the next start settles them from %s", len(lines), path)


class TakenIn:
    """What a start finds in the file. Call `settle` inside the transaction that opens the ledger, `discard` after
    it."""

    def __init__(self, folder: Path) -> None:
        """Reads the file. Raises OSError."""
        self.settled = 0
        self.rejected: list[bytes] = []
        self._path = folder / FILE_NAME
        try:
            self._lines = [line for line in self._path.read_bytes().splitlines() if line]
        except FileNotFoundError:
            self._lines = []

    def settle(self, conn: sqlite3.Connection) -> None:
        """Settle what is not settled yet. Raises sqlite3.Error for trouble; keeps unusable lines separately."""
        for line in self._lines:
            conn.execute("SAVEPOINT line")
            try:
                self.settled += _settle(conn, _decode(line))
            except (msgspec.DecodeError, TenantdError, sqlite3.Error, OverflowError) as e:
                if isinstance(e, sqlite3.Error) and is_trouble(e):
                    raise
                log.error("%s: cannot settle a line: %s", self._path, e)
                self.rejected.append(line)
                conn.execute("ROLLBACK TO line")
            conn.execute("RELEASE line")

    def discard(self) -> None:
        """Delete the file, because everything is in the ledger, on disk. Raises OSError."""
        if not self._lines:
            return
        if self.rejected:
            _append(self._path.with_name(REJECTED_NAME), self.rejected)
        self._path.unlink()
        _sync_folder(self._path.parent)


def _settle(conn: sqlite3.Connection, record: Unsettled) -> bool:
    """Settle one line. False if its request is already settled."""
    state = state_of(conn, record.settlement.id)
    if state is None and record.admission is not None:
        insert_request(conn, msgspec.structs.replace(record.admission, tenant_id=_owner(conn, record.admission)))
    elif state not in (None, "running"):
        return False
    settle_request(conn, record.settlement)
    return True


def _owner(conn: sqlite3.Connection, admission: Admitted) -> int:
    """The id of its tenant in this ledger.

    A ledger restored from a backup may lack that tenant, and give its id to another: then the request is that of a
    removed tenant, made for it, and on nobody else's bill. Before schema 6 a name was given once and was enough.
    """
    name, number = admission.tenant, admission.tenant_id
    query = "SELECT id FROM tenants WHERE name = ? AND id = coalesce(?, id)"
    row = conn.execute(query, (name, number)).fetchone()
    return int(row[0]) if row is not None else add_unknown(conn, name, admission.created_micros)


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
