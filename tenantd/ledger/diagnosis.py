"""What was done to an audit trail whose chain breaks somewhere: the kind of tampering, and the number of the entry.

The stored hashes give it away: each fits exactly one hash before it, one number and one content. An entry that is found
to belong elsewhere was moved; entries that fit except for their numbers were shifted by others that were inserted or
deleted. Whoever computes all later hashes anew leaves nothing to be found here; anchors show that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from tenantd.ledger.audit import COLUMNS, Head, link
from tenantd.ledger.pieces import let_go

MOST_SHIFTED: Final = 100_000
"""Maximum deleted entries in a row that are noticed although the numbers were closed up."""
PIECE_ENTRIES: Final = 20_000
Row = tuple[Any, ...]  # of COLUMNS
_FROM: Final = f"SELECT {COLUMNS} FROM audit WHERE number > ? ORDER BY number LIMIT ?"
_ONE: Final = f"SELECT {COLUMNS} FROM audit WHERE number = ?"


class Kind(StrEnum):
    """What was done to the trail."""

    EDITED = "edited"
    DELETED = "deleted"
    REORDERED = "reordered"
    INSERTED = "inserted"
    TRUNCATED = "truncated"  # entries at the end are missing
    REWRITTEN = "rewritten"  # it differs from an anchored head
    OLDER = "older"  # it ends before an anchored head


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The first bad entry, or where one is missing. `number` 0: the head."""

    number: int
    kind: Kind
    message: str


class Place(NamedTuple):
    """An entry up to which the chain is whole: its number, its hash, and the hash before it (None if unknown)."""

    number: int
    hash: bytes
    before: bytes | None


def diagnose(conn: sqlite3.Connection, place: Place, head: Head) -> Finding:
    """What is wrong with the entry that should follow `place`. `conn` has a transaction open."""
    conn.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # whatever is in there
    number = place.number + 1
    row = conn.execute(_ONE, (number,)).fetchone()
    if row is not None and place.before is not None and _link(place.before, place.number, row) == row[7]:
        inserted = number if row[7] == place.hash else place.number  # a copy, or another with a hash that fits
        return _finding(inserted, Kind.INSERTED, "it was inserted, and all later ones have other numbers")
    if number > head.number:
        return _finding(number, Kind.INSERTED, f"it was inserted after the newest one, {head.number}")
    found = _find(conn, place, None if row is None else row[7])
    if found is not None:
        return _displaced(conn, place, row, found)
    if row is None:
        return _gap(conn, number, head)
    return _changed(conn, place, row, head)


def _finding(number: int, kind: Kind, what: str) -> Finding:
    return Finding(number=number, kind=kind, message=f"entry {number}: {what}")


def _link(last: bytes, number: int, row: Row) -> bytes:
    """The hash of the row's content under this number; empty if it cannot have one."""
    try:
        return link(last, (number, *row[1:7]))
    except UnicodeEncodeError:
        return b""


def _find(conn: sqlite3.Connection, place: Place, digest: bytes | None) -> Row | None:
    """A later row with the content that belongs after `place`, by its own hash or by `digest`."""
    for row in _rows(conn, place.number):
        if row[0] != place.number + 1 and _link(place.hash, place.number + 1, row) in (row[7], digest):
            return row
    return None


def _rows(conn: sqlite3.Connection, after: int) -> Iterator[Row]:
    """All rows after a number, in pieces with a snapshot each."""
    while rows := conn.execute(_FROM, (after, PIECE_ENTRIES)).fetchall():
        yield from rows
        after = rows[-1][0]
        let_go(conn)


def _displaced(conn: sqlite3.Connection, place: Place, row: Row | None, found: Row) -> Finding:
    """The entry is there, with another number: because of others before it, or because it was moved."""
    number, offset = place.number + 1, found[0] - place.number - 1
    contents_only = _link(place.hash, number, found) != found[7]  # the hashes were left where they were
    if row is None or contents_only or _is_of_this_trail(conn, place, row, offset):
        return _finding(number, Kind.REORDERED, f"it stands at number {found[0]}")
    which = "an entry was" if offset == 1 else f"{offset} entries were"
    return _finding(number, Kind.INSERTED, f"{which} inserted here, and later ones have other numbers")


def _is_of_this_trail(conn: sqlite3.Connection, place: Place, row: Row, offset: int) -> bool:
    """Whether a row belongs after some other, which stands in its place or `offset` too far. False for a copy."""
    belongs = False
    for other in _rows(conn, place.number):
        if other[7] == row[7] and other[0] != row[0]:
            return False
        belongs = belongs or row[7] in (_link(other[7], other[0] + 1, row), _link(other[7], other[0] - offset + 1, row))
    return belongs


def _gap(conn: sqlite3.Connection, number: int, head: Head) -> Finding:
    row = conn.execute("SELECT min(number) FROM audit WHERE number > ?", (number,)).fetchone()
    if row[0] is None:
        return _finding(number, Kind.TRUNCATED, f"it was deleted, and all after it, up to {head.number}")
    if row[0] == number + 1:
        return _finding(number, Kind.DELETED, "it was deleted")
    return _finding(number, Kind.DELETED, f"it was deleted, and all after it before {row[0]}")


def _changed(conn: sqlite3.Connection, place: Place, row: Row, head: Head) -> Finding:
    """What stands here does not follow, and what should stand here is nowhere."""
    number, made = place.number + 1, _link(place.hash, place.number + 1, row)
    following = conn.execute(_ONE, (number + 1,)).fetchone()

    def leads_to(digest: bytes, skipped: int = 0) -> bool:
        """Whether the rest of the trail follows this hash, `skipped` numbers further."""
        if following is None:
            return digest == head.hash and head.number == number + skipped
        return bool(_link(digest, number + 1 + skipped, following) == following[7])

    if leads_to(row[7]):
        return _finding(number, Kind.EDITED, "its content was edited, or the hash of the entry before it")
    if leads_to(made):
        return _finding(number, Kind.EDITED, "its hash was edited")
    for skipped in _plausible(conn, head):
        if leads_to(row[7], skipped):
            which = "an entry" if skipped == 1 else f"{skipped} entries"
            return _finding(number, Kind.DELETED, f"{which} from here on were deleted, and the numbers closed up")
    return _finding(number, Kind.EDITED, "neither it nor what follows fits the hash before it")


def _plausible(conn: sqlite3.Connection, head: Head) -> Iterator[int]:
    """How many entries may have been deleted: as many as the head counts too many, or any number."""
    (newest,) = conn.execute("SELECT max(number) FROM audit").fetchone()
    if newest is not None and newest < head.number:
        yield head.number - newest
    yield from range(1, MOST_SHIFTED + 1)
