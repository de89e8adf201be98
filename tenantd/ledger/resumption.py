"""How the audit trail begins, and continues at each start of the daemon, inside the transaction that opens the ledger.

If the head of the trail was deleted or altered, the trail continues all the same, because a daemon that cannot start
helps nobody. An entry records it, and verification reports that entry for as long as it is kept.
"""

from __future__ import annotations

import contextlib
import logging
from sqlite3 import Connection
from typing import Final

from tenantd.errors import ConfigError
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
    newest_micros,
    read_head,
)
from tenantd.ledger.prunings import read_announced

log = logging.getLogger(__name__)


FAR: Final = 2**32
"""An entry that is further from the head is not continued from, because the numbers might run out."""
_TABLES: Final = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('audit', 'audit_head')"
_NEWEST: Final = "SELECT number, hash FROM audit WHERE number <= ? ORDER BY number DESC LIMIT 1"
# Compared in SQL, because an altered event may not even be text.
_IS_OFF: Final = "SELECT event = ? FROM audit WHERE event NOT IN (?, ?) ORDER BY number DESC LIMIT 1"
_LAST_PRUNED: Final = (
    "SELECT number, at_micros, CAST(detail AS BLOB) FROM audit WHERE event = ? ORDER BY number DESC LIMIT 1"
)
_NEW_HEAD: Final = """INSERT INTO audit_head (one, number, hash, pruned_number, pruned_hash, prunable_number)
    VALUES (1, ?1, ?2, ?3, ?4, ?3)"""


def before_start_micros(conn: Connection) -> int | None:
    """The time of the newest entry. Raises ConfigError if the tables of the trail are missing."""
    if conn.execute(_TABLES).fetchone() != (2,):
        raise ConfigError("somebody has deleted the tables of the audit trail from the ledger; restore a backup")
    return newest_micros(conn)


def resume(conn: Connection, now_micros: int, *, is_on: bool) -> None:
    """Continue the trail, and record if it was switched off or on since the last start.

    Raises like `append`.
    """
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
    head = read_head(conn)
    is_known = head is not None and head.number < LARGEST_NUMBER - FAR
    newest = conn.execute(_NEWEST, ((head.number if head and is_known else LARGEST_NUMBER - 2 * FAR) + FAR,)).fetchone()
    number, last = newest or (0, NO_HASH)
    if head is not None:
        is_empty = newest is None and (head.number, head.hash) == (head.pruned_number, head.pruned_hash)
        if is_empty or (head.number, head.hash) == (number, last):
            return
        if is_known and number < head.number:  # numbers are not used again
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
    (oldest,) = conn.execute("SELECT min(number) FROM audit WHERE number > 0").fetchone()
    if oldest is None:
        return 0, NO_HASH
    row = conn.execute(_LAST_PRUNED, (PRUNED,)).fetchone()
    with contextlib.suppress(ValueError):
        if row is not None and (announced := read_announced(*row)).through == oldest - 1:
            return oldest - 1, announced.hash
    return oldest - 1, NO_HASH
