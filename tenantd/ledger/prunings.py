"""What an entry about pruning says, and when it is believed. Whoever can write the file can also write such an entry.

Only entries from before a month that is over are ever pruned. So an entry that claims more is not one of tenantd's; nor
is one that covers entries which, by their own times or by those of anchors, are younger than it says.
"""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import Final, NamedTuple

import msgspec

from tenantd.ledger.audit import HASH_BYTES, PRUNED
from tenantd.ledger.pieces import let_go
from tenantd.periods import EPOCH

PIECE_ENTRIES: Final = 50_000
_EASTERNMOST: Final = timedelta(hours=14)
_WESTERNMOST: Final = timedelta(hours=12)
_PIECE: Final = """SELECT min(number) FROM
    (SELECT number FROM audit WHERE number > ? AND number <= ? ORDER BY number DESC LIMIT ?)"""
_FOUND: Final = """SELECT number, at_micros, CAST(detail AS BLOB) FROM audit
    WHERE number BETWEEN ? AND ? AND event = ? ORDER BY number DESC"""


class PrunedDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry PRUNED says: entries up to `through`, whose hash in hex is `hash`, are from before a time."""

    through: int
    hash: str
    before_micros: int | None = None


class Announced(NamedTuple):
    """Entries up to number `through`, which has this hash, may be deleted.

    They are from before `before_micros`, or have times later than `at_micros`, from a clock that was wrong.
    """

    through: int
    hash: bytes
    before_micros: int
    at_micros: int

    def covers(self, at_micros: int) -> bool:
        """Whether an entry with this time is one that may be deleted."""
        return not self.before_micros <= at_micros <= self.at_micros


_decode = msgspec.json.Decoder(PrunedDetail).decode


def read_announced(number: int, at_micros: int, detail: str | bytes, known_micros: int | None = None) -> Announced:
    """What the entry PRUNED with this number and time says. It was there at `known_micros`, if that is known.

    Raises ValueError if it says nothing that tenantd would say.
    """
    try:
        said = _decode(detail)
    except (ValueError, RecursionError):
        raise ValueError("it does not say what was pruned") from None
    digest = bytes.fromhex(said.hash)
    if len(digest) != HASH_BYTES or not 0 < said.through < number:
        raise ValueError("it does not say what was pruned before it")
    latest_micros = _open_since_micros(at_micros if known_micros is None else min(at_micros, known_micros))
    before_micros = latest_micros if said.before_micros is None else said.before_micros
    if before_micros > latest_micros:
        raise ValueError("it says that entries of a month were pruned that was not over, or a clock was wrong")
    return Announced(said.through, digest, before_micros, at_micros)


def _open_since_micros(moment_micros: int) -> int:
    """The latest time, of all time zones, at which the month of this moment began. Raises ValueError."""
    try:
        there = EPOCH + timedelta(microseconds=moment_micros) + _EASTERNMOST
        month = there.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return (month + _WESTERNMOST - EPOCH) // timedelta(microseconds=1)
    except OverflowError:
        raise ValueError("its time is not one that a clock shows") from None


def newest_announced(conn: sqlite3.Connection, pruned: int, newest: int) -> Announced | None:
    """The newest announcement of the trail, from after `pruned` up to `newest`, that is not carried out yet.

    None if there is no believable one. Reads the trail from its end, which may take long.
    """
    high = newest
    while (low := conn.execute(_PIECE, (pruned, high, PIECE_ENTRIES)).fetchone()[0]) is not None:
        for number, at_micros, detail in conn.execute(_FOUND, (low, high, PRUNED)).fetchall():
            try:
                found = read_announced(number, at_micros, detail)
            except ValueError:
                continue
            row = conn.execute("SELECT hash FROM audit WHERE number = ?", (found.through,)).fetchone()
            if found.through > pruned and row == (found.hash,):
                return found
        let_go(conn)
        high = low - 1
    return None
