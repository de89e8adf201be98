"""Verifies the audit trail: walks the chain from the oldest entry to the head, and names the first bad ones.

Needs nothing but the file, and changes nothing in it. Reads it in pieces with a snapshot each, so it can run while the
daemon appends and prunes, in constant memory apart from the anchored heads.

What is found does not end the walk: behind a break it goes on from the hash that stands there, so that something that
was once altered does not hide what is altered later.

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
from tenantd.ledger.audit import COLUMNS, CONTINUED, PRUNED, Head, encode_row, read_head
from tenantd.ledger.database import connect_reader, explain
from tenantd.ledger.diagnosis import Finding, Kind, Place, diagnose
from tenantd.ledger.pieces import let_go
from tenantd.ledger.prunings import read_announced

HEADLESS: Final = Finding(
    number=0, kind=Kind.TRUNCATED, message="the head of the trail, in table audit_head, was deleted"
)
PIECE_ENTRIES: Final = 20_000
"""Entries per snapshot, which take about a tenth of a second."""
BUSY_TIMEOUT_MS: Final = 1000
MOST_FINDINGS: Final = 10
"""Then it stops. Entries that were moved can all be findings."""
LONGEST_DETAIL: Final = 300
_NEXT: Final = "SELECT number, hash FROM audit WHERE number > ? ORDER BY number LIMIT 1"
_PIECE: Final = f"SELECT {COLUMNS} FROM audit WHERE number > ? ORDER BY number LIMIT ?"
_ABOUT_THE_TRAIL: Final = {CONTINUED, PRUNED}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified. Without `finding`, the chain is whole and agrees with all anchors that can be compared.

    `number` and `hash` are those of the newest entry, `pruned` is the number of the newest pruned one. `anchors` heads
    agreed; `notes` says in words what could not be compared. `later` are further findings, in order, up to
    MOST_FINDINGS in all.
    """

    entries: int
    number: int
    hash: str
    pruned: int
    anchors: int = 0
    notes: list[str] = []
    finding: Finding | None = None
    later: list[Finding] = []


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
    walk.begin()
    while not walk.is_done:
        walk.next_piece()
        on_progress(walk.place.number - walk.pruned, walk.head.number - walk.pruned)
        let_go(conn)
    return Verdict(
        entries=walk.entries,
        number=walk.place.number,
        hash=walk.place.hash.hex(),
        pruned=walk.pruned,
        anchors=anchors.agreed,
        notes=anchors.notes(walk.pruned),
        finding=walk.findings[0] if walk.findings else None,
        later=walk.findings[1:],
    )


class _Walk:
    """Where the verification stands: at `place`, the newest entry that is verified."""

    def __init__(self, conn: sqlite3.Connection, anchors: Anchors) -> None:
        self.entries = self.pruned = 0
        self.announced = 0  # up to where an entry about pruning allows it
        self.findings: list[Finding] = []
        self.is_done = False
        self.place = Place(0, b"", None)
        self.head = Head(0, b"", 0, b"", 0)
        self._conn = conn
        self._anchors = anchors
        self._is_rewritten = self._is_broken = False

    def begin(self) -> None:
        """Read the checkpoint, before anything else."""
        head = read_head(self._conn)
        if head is None:
            self._end(HEADLESS)
            return
        self._from_checkpoint(head)
        row = self._conn.execute("SELECT max(number) FROM audit WHERE number <= ?", (head.pruned_number,)).fetchone()
        if row[0] is not None:
            message = f"entries up to {head.pruned_number} were pruned, but there is one with number {row[0]}"
            self._note(Finding(number=row[0], kind=Kind.INSERTED, message=message))
        self._compare(head.pruned_number, head.pruned_hash)

    def _from_checkpoint(self, head: Head) -> None:
        self.head, self.pruned = head, head.pruned_number
        self.place = Place(head.pruned_number, head.pruned_hash, None)

    def _note(self, finding: Finding | None) -> None:
        if finding is not None and len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)

    def _end(self, finding: Finding | None) -> None:
        self._note(finding)
        self.is_done = True

    def _compare(self, number: int, digest: bytes) -> None:
        """Compare with an anchor. Behind the first that differs all do."""
        if not self._is_rewritten and (finding := self._anchors.compare(number, digest)) is not None:
            self._is_rewritten = True
            self._note(finding)

    def next_piece(self) -> None:
        """Verify the next entries, in a snapshot of their own."""
        head = read_head(self._conn)
        if head is None:
            self._end(HEADLESS)
            return
        if head.pruned_number > self.place.number:  # pruned meanwhile, and verified before that
            self._from_checkpoint(head)
        self.head = head
        before = self.entries
        broken = self._verify_some()
        if broken is not None:
            self._go_on_behind(broken)
        elif self.entries - before < PIECE_ENTRIES:
            self._at_the_end()

    def _go_on_behind(self, broken: Finding) -> None:
        """Note a break of the chain, and take the next entry as it is."""
        row = self._conn.execute(_NEXT, (self.place.number,)).fetchone()
        if row is None or self.place.number >= self.head.number or len(self.findings) == MOST_FINDINGS:
            self._end(broken)
            return
        self._note(broken)
        self.place = Place(row[0], row[1], None)

    def _verify_some(self) -> Finding | None:
        """Verify entries until the piece ends, or until one does not follow, and say why."""
        number, last, before = self.place
        heads, head_number = self._anchors.heads, self.head.number
        entries = 0
        try:
            for row in self._conn.execute(_PIECE, (number, PIECE_ENTRIES)):
                made = sha256(last + encode_row(row[:7])).digest()
                if row[0] != number + 1 or made != row[7] or number >= head_number:
                    return self._diagnose(Place(number, last, before))
                number, last, before = row[0], made, last
                entries += 1
                if row[2] in _ABOUT_THE_TRAIL:
                    self._hear(row)
                if number in heads:
                    self._compare(number, made)
        except (sqlite3.Error, UnicodeEncodeError) as e:
            if hasattr(e, "sqlite_errorcode"):
                raise
            return self._diagnose(Place(number, last, before))  # the text of an entry is not UTF-8
        finally:
            self.place = Place(number, last, before)
            self.entries += entries
        return None

    def _diagnose(self, place: Place) -> Finding:
        """Why the next entry does not follow. At length only for the first one, because that may take long."""
        if not self._is_broken:
            self._is_broken = True
            return diagnose(self._conn, place, self.head)
        number = place.number + 1
        is_there = self._conn.execute("SELECT 1 FROM audit WHERE number = ?", (number,)).fetchone()
        if number > self.head.number:
            kind, what = Kind.INSERTED, f"it was inserted after the newest one, {self.head.number}"
        elif is_there:
            kind, what = Kind.EDITED, "it does not fit the entry before it"
        else:
            kind, what = Kind.DELETED, "it was deleted"
        return Finding(number=number, kind=kind, message=f"entry {number}: {what}")

    def _hear(self, row: tuple[Any, ...]) -> None:
        """Take in an entry about the trail itself."""
        number = row[0]
        if row[2] == PRUNED:
            self._hear_of_pruning(number, row[1], row[6])
            return
        message = (
            "the trail was continued here after its head had been altered or deleted, so entries before may be "
            f"missing; this is what was found: {row[6][:LONGEST_DETAIL]}"
        )
        self._note(Finding(number=number, kind=Kind.TRUNCATED, message=message))

    def _hear_of_pruning(self, number: int, at_micros: int, detail: str) -> None:
        """Of a chain that is whole, because somebody has computed it anew, it may say anything."""
        try:
            announced = read_announced(number, at_micros, detail, self._anchors.known_micros(number))
        except ValueError as e:
            message = f"entry {number} about pruning is not one of tenantd's: {e}"
            self._note(Finding(number=number, kind=Kind.EDITED, message=message))
            return
        self.announced = max(self.announced, announced.through)
        older = self._anchors.contradict(announced)
        if older is not None:
            message = (
                f"entry {number} says that entries up to {announced.through} are old enough to be pruned, but entry "
                f"{older} was anchored after that time: later ones were deleted too early, or a clock was wrong"
            )
            self._note(Finding(number=older + 1, kind=Kind.DELETED, message=message))

    def _at_the_end(self) -> None:
        """Compare what was found with the head."""
        self.is_done = True
        number, head = self.place.number, self.head
        if number < head.number:
            message = f"the newest entries, {number + 1} to {head.number}, were deleted"
            self._note(Finding(number=number + 1, kind=Kind.TRUNCATED, message=message))
        elif self.place.hash != head.hash:
            message = "the head of the trail, in table audit_head, was edited"
            self._note(Finding(number=number, kind=Kind.EDITED, message=message))
        if self.announced < self.pruned:
            message = f"entries up to {self.pruned} are gone, but no entry records that they were pruned"
            self._note(Finding(number=self.announced + 1, kind=Kind.DELETED, message=message))
        self._note(self._anchors.beyond(head.number))
