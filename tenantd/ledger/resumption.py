"""How the audit trail begins, and continues at each start of the daemon, inside the transaction that opens the ledger.

If the head of the trail was deleted or altered, the trail continues all the same, because a daemon that cannot start
helps nobody. An entry records it, and verification reports that entry for as long as it is kept.
"""

from __future__ import annotations

import contextlib
import logging
from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.ledger.audit import (
    BEGUN,
    CONTINUED,
    DAMAGED,
    LARGEST_NUMBER,
    NO_HASH,
    PRUNED,
    SWITCHED_OFF,
    SWITCHED_ON,
    Entry,
    append,
    decode_pruned,
    read_head,
)

log = logging.getLogger(__name__)


_NEWEST: Final = "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1"
# Compared in SQL, because an altered event may not even be text.
_IS_OFF: Final = "SELECT event = ? FROM audit WHERE event NOT IN (?, ?) ORDER BY number DESC LIMIT 1"
_LAST_PRUNED: Final = "SELECT detail FROM audit WHERE event = ? ORDER BY number DESC LIMIT 1"
_NEW_HEAD: Final = """INSERT INTO audit_head (one, number, hash, pruned_number, pruned_hash, prunable_number)
    VALUES (1, ?1, ?2, ?3, ?4, ?3)"""


def resume(conn: Connection, now_micros: int, *, is_on: bool) -> None:
    """Continue the trail, and record if it was switched off or on since the last start. Raises like `append`."""
    _mend(conn, now_micros)
    row = conn.execute(_IS_OFF, (SWITCHED_OFF, PRUNED, DAMAGED)).fetchone()  # pruning goes on while it is off
    was_off = row is not None and bool(row[0])
    if is_on and row is None:
        (requests,) = conn.execute("SELECT coalesce(max(number), 0) FROM requests").fetchone()
        append(conn, [Entry(at_micros=now_micros, event=BEGUN, detail={"requests_before": requests})])
    elif is_on and was_off:
        append(conn, [Entry(at_micros=now_micros, event=SWITCHED_ON)])
    elif not is_on and not was_off:
        append(conn, [Entry(at_micros=now_micros, event=SWITCHED_OFF)])


def _mend(conn: Connection, now_micros: int) -> None:
    """Make sure that entries can be appended, and record it if they could not."""
    head, newest = read_head(conn), conn.execute(_NEWEST).fetchone()
    number, last = newest or (0, NO_HASH)
    if head is not None:
        is_empty = newest is None and (head.number, head.hash) == (head.pruned_number, head.pruned_hash)
        if is_empty or (head.number, head.hash) == (number, last):
            return
        if number < head.number < LARGEST_NUMBER:  # numbers are not used again
            number, last = head.number, head.hash
    detail = {
        "head": None if head is None else [head.number, head.hash.hex()],
        "newest": None if newest is None else [newest[0], newest[1].hex()],
    }
    log.error(
        "somebody has altered the audit trail or its head: %s; it continues after entry %d, and `audit verify` says so",
        detail,
        number,
    )
    if head is None:
        conn.execute(_NEW_HEAD, (number, last, *_oldest_kept(conn)))
    append(conn, [Entry(at_micros=now_micros, event=CONTINUED, detail=detail)], after=(number, last))


def _oldest_kept(conn: Connection) -> tuple[int, bytes]:
    """Number and hash of the entry before the oldest, as far as that can be known without a head."""
    (oldest,) = conn.execute("SELECT min(number) FROM audit").fetchone()
    if oldest is None:
        return 0, NO_HASH
    with contextlib.suppress(msgspec.DecodeError, ValueError):
        row = conn.execute(_LAST_PRUNED, (PRUNED,)).fetchone()
        if row is not None and (pruned := decode_pruned(row[0])).through == oldest - 1:
            return oldest - 1, bytes.fromhex(pruned.hash)
    return oldest - 1, NO_HASH
