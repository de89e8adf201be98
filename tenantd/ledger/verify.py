"""Verifies the audit trail: walks the chain from the oldest entry to the head, and names the first bad one.

Needs nothing but the file, and changes nothing in it. Reads it in pieces with a snapshot each, so it can run while the
daemon appends and prunes, in constant memory apart from the anchored heads.

A chain alone proves nothing against somebody who can write the file: they can make a new one. Heads that were kept
elsewhere (`tenantd.ledger.anchored`) show that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from tenantd.errors import ConfigError, LedgerUnavailable
from tenantd.ledger.anchored import Anchors
from tenantd.ledger.audit import COLUMNS, CONTINUED, PRUNED, Head, decode_pruned, encode_row, read_head
from tenantd.ledger.database import connect_reader, explain
from tenantd.ledger.diagnosis import Finding, Kind, Place, diagnose
from tenantd.ledger.pieces import let_go

HEADLESS: Final = Finding(
    number=0, kind=Kind.TRUNCATED, message="the head of the trail, in table audit_head, was deleted"
)
PIECE_ENTRIES: Final = 20_000
"""Entries per snapshot, which take about a tenth of a second."""
BUSY_TIMEOUT_MS: Final = 1000
_PIECE: Final = f"SELECT {COLUMNS} FROM audit WHERE number > ? ORDER BY number LIMIT ?"
_ABOUT_THE_TRAIL: Final = {CONTINUED, PRUNED}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified. Without `finding`, the chain is whole and agrees with all anchors that can be compared.

    `number` and `hash` are those of the newest entry, `pruned` is the number of the newest pruned one. `anchors` heads
    agreed; `notes` says in words what could not be compared.
    """

    entries: int
    number: int
    hash: str
    pruned: int
    anchors: int = 0
    notes: list[str] = []
    finding: Finding | None = None


def verify_file(
    path: Path, anchors: Anchors | None = None, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> Verdict:
    """Verify a ledger's file. `on_progress` is told how many numbers are done, and how many there are.

    Raises LedgerUnavailable, ConfigError for a file without an audit trail.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    try:
        conn = connect_reader(path, BUSY_TIMEOUT_MS)
        try:
            conn.execute("BEGIN")
            tables = conn.execute("SELECT count(*) FROM sqlite_schema WHERE name IN ('audit', 'audit_head')").fetchone()
            if tables != (2,):
                raise ConfigError(f"{path} has no audit trail; the ledgers of this version have one")
            return verify(conn, anchors, on_progress)
        finally:
            conn.close()
    except sqlite3.Error as e:
        raise LedgerUnavailable(f"cannot read the ledger: {explain(e, path)}") from e


def verify(
    conn: sqlite3.Connection,
    anchors: Anchors | None = None,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Verdict:
    """Verify the trail. `conn` has a transaction open, and may be given other snapshots."""
    anchors = anchors or Anchors()
    walk = _Walk(conn, anchors)
    finding = walk.begin()
    while finding is None and not walk.is_done:
        finding = walk.next_piece()
        on_progress(walk.place.number - walk.pruned, walk.head.number - walk.pruned)
        let_go(conn)
    return Verdict(
        entries=walk.entries,
        number=walk.place.number,
        hash=walk.place.hash.hex(),
        pruned=walk.pruned,
        anchors=anchors.agreed,
        notes=anchors.notes(walk.pruned),
        finding=finding or walk.missing_record() or anchors.beyond(walk.head.number),
    )


class _Walk:
    """Where the verification stands: at `place`, the newest entry that is verified."""

    def __init__(self, conn: sqlite3.Connection, anchors: Anchors) -> None:
        self.entries = self.pruned = 0
        self.is_done = False
        self.place = Place(0, b"", None)
        self.head = Head(0, b"", 0, b"", 0)
        self._conn = conn
        self._anchors = anchors
        self._announced: int | None = None  # up to where the newest entry about pruning allows it

    def begin(self) -> Finding | None:
        """Read the checkpoint, before anything else."""
        head = read_head(self._conn)
        if head is None:
            return HEADLESS
        self._from_checkpoint(head)
        row = self._conn.execute("SELECT max(number) FROM audit WHERE number <= ?", (head.pruned_number,)).fetchone()
        if row[0] is not None:
            return Finding(
                number=row[0],
                kind=Kind.INSERTED,
                message=f"entries up to {head.pruned_number} were pruned, but there is one with number {row[0]}",
            )
        return self._anchors.compare(head.pruned_number, head.pruned_hash)

    def _from_checkpoint(self, head: Head) -> None:
        self.head, self.pruned = head, head.pruned_number
        self.place = Place(head.pruned_number, head.pruned_hash, None)

    def next_piece(self) -> Finding | None:
        """Verify the next entries, in a snapshot of their own."""
        head = read_head(self._conn)
        if head is None:
            return HEADLESS
        if head.pruned_number > self.place.number:  # pruned meanwhile, and verified before that
            self._from_checkpoint(head)
        self.head = head
        before = self.entries
        finding = self._verify_some()
        if finding is not None:
            return finding
        if self.entries - before < PIECE_ENTRIES:
            self.is_done = True
            return self._at_the_end()
        return None

    def _verify_some(self) -> Finding | None:
        number, last, before = self.place
        heads, head_number = self._anchors.heads, self.head.number
        entries = 0
        try:
            for row in self._conn.execute(_PIECE, (number, PIECE_ENTRIES)):
                made = sha256(last + encode_row(row[:7])).digest()
                if row[0] != number + 1 or made != row[7] or number >= head_number:
                    return diagnose(self._conn, Place(number, last, before), self.head)
                number, last, before = row[0], made, last
                entries += 1
                if row[2] in _ABOUT_THE_TRAIL and (finding := self._hear(row)) is not None:
                    return finding
                if number in heads and (finding := self._anchors.compare(number, made)) is not None:
                    return finding
        except (sqlite3.Error, UnicodeEncodeError) as e:
            if hasattr(e, "sqlite_errorcode"):
                raise
            return diagnose(self._conn, Place(number, last, before), self.head)  # the text of an entry is not UTF-8
        finally:
            self.place = Place(number, last, before)
            self.entries += entries
        return None

    def _hear(self, row: tuple[Any, ...]) -> Finding | None:
        """Take in an entry about the trail itself."""
        if row[2] == PRUNED:
            try:
                self._announced = decode_pruned(row[6]).through
            except msgspec.DecodeError:  # of a whole chain, which somebody has computed anew
                return Finding(number=row[0], kind=Kind.EDITED, message="it does not say what was pruned")
            return None
        return Finding(
            number=row[0],
            kind=Kind.TRUNCATED,
            message="the trail was continued here after its head had been altered or deleted, so entries before may be "
            f"missing; this is what was found: {row[6]}",
        )

    def _at_the_end(self) -> Finding | None:
        """Compare what was found with the head."""
        number, head = self.place.number, self.head
        if number < head.number:
            return Finding(
                number=number + 1,
                kind=Kind.TRUNCATED,
                message=f"the newest entries, {number + 1} to {head.number}, were deleted",
            )
        if self.place.hash != head.hash:
            return Finding(
                number=number, kind=Kind.EDITED, message="the head of the trail, in table audit_head, was edited"
            )
        return None

    def missing_record(self) -> Finding | None:
        """Entries at the beginning that are gone, although none that is kept says that they were pruned."""
        announced = self._announced or 0
        if announced >= self.pruned:
            return None
        return Finding(
            number=announced + 1,
            kind=Kind.DELETED,
            message=f"entries up to {self.pruned} are gone, but no entry records that they were pruned",
        )
