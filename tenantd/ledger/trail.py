"""Reads entries of the audit trail, by the filters of a query, in portions that each take a fraction of a second.

There is no index over times, because clocks can be set back and numbers give the order. So a rare entry may have to be
looked for in the whole trail. A portion ends after some time, and says where the next one goes on.
"""

from __future__ import annotations

import time
from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd.ledger.audit import COLUMNS, LARGEST_NUMBER
from tenantd.ledger.pieces import let_go

PIECE_ENTRIES: Final = 50_000
"""Entries looked at in one snapshot, which takes some hundredths of a second."""
PORTION_S: Final = 0.25
MOST_ENTRIES_READ: Final = 1000


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `detail` depends on `event`; `hash` in hex is over the entry and the hash before it.

    `detail_text` is the detail exactly as it is stored, which the hash is over.
    """

    number: int
    at_micros: int
    event: str
    tenant_id: int | None
    tenant: str | None
    request_id: str | None
    detail: dict[str, Any]
    detail_text: str
    hash: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries; None matches any. `request_part` are the digits at either end of a request's id.

    Times are from `since_micros` until before `until_micros`."""

    tenant_id: int | None = None
    event: str | None = None
    request_id: str | None = None
    request_part: str | None = None
    since_micros: int | None = None
    until_micros: int | None = None


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """Some entries, in order. `next` is where to go on: `after`, or `before` with the newest first; None at the end."""

    entries: list[AuditRecord]
    next: int | None


_SELECT: Final = f"SELECT {COLUMNS} FROM audit WHERE number BETWEEN :first AND :last"
_CONDITIONS: Final = {
    "tenant_id": "tenant_id = :tenant_id",
    "event": "event = :event",
    "request_id": "request_id = :request_id",
    "request_part": """(substr(request_id, -length(:request_part)) = :request_part
        OR (request_id >= 'req_' || :request_part AND request_id < 'req_' || :request_part || 'g'))""",
    "since_micros": "at_micros >= :since_micros",
    "until_micros": "at_micros < :until_micros",
}


def select(
    conn: Connection,
    wanted: Wanted,
    *,
    limit: int,
    after: int | None = None,
    before: int | None = None,
    is_newest_first: bool = False,
) -> Portion:
    """At most `limit` and MOST_ENTRIES_READ entries with numbers between `after` and `before`, both excluded.

    Returns fewer, or none, if it takes too long to find more; then `next` is not None.
    """
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    where = "".join(f" AND {_CONDITIONS[name]}" for name in given)
    low, high = max(after or 0, 0), LARGEST_NUMBER if before is None else min(before, LARGEST_NUMBER)
    limit = min(limit, MOST_ENTRIES_READ)
    entries: list[AuditRecord] = []
    size = PIECE_ENTRIES if wanted.request_id is None else LARGEST_NUMBER  # an index finds those of a request
    until_s = time.monotonic() + PORTION_S
    while len(entries) < limit and time.monotonic() < until_s:
        piece = _piece(conn, low, high, size, is_newest_first=is_newest_first)
        if piece is None:
            return Portion(entries=entries, next=None)
        first, last = piece
        order = "DESC" if is_newest_first else "ASC"
        rows = conn.execute(
            f"{_SELECT}{where} ORDER BY number {order} LIMIT :limit",
            {**given, "first": first, "last": last, "limit": limit - len(entries)},
        ).fetchall()
        entries += [_record(row) for row in rows]
        if is_newest_first:
            high = first if len(entries) < limit else entries[-1].number
        else:
            low = last if len(entries) < limit else entries[-1].number
        let_go(conn)
    return Portion(entries=entries, next=high if is_newest_first else low)


def _piece(conn: Connection, low: int, high: int, size: int, *, is_newest_first: bool) -> tuple[int, int] | None:
    """The first numbers to look at between `low` and `high`, both excluded: from, and to. None if there are none."""
    order = "DESC" if is_newest_first else "ASC"
    row = conn.execute(
        f"SELECT number FROM audit WHERE number > ? AND number < ? ORDER BY number {order} LIMIT 1", (low, high)
    ).fetchone()
    if row is None:
        return None
    if is_newest_first:
        return max(low + 1, row[0] - size + 1), row[0]
    return row[0], min(high - 1, row[0] + size - 1)


def _record(row: tuple[Any, ...]) -> AuditRecord:
    number, at_micros, event, tenant_id, tenant, request_id, detail, digest = row
    try:
        decoded = msgspec.json.decode(detail, type=dict[str, Any])
        msgspec.json.encode(decoded)
    except (ValueError, RecursionError):  # somebody has edited it
        decoded = {"unreadable": detail}
    return AuditRecord(
        number=number,
        at_micros=at_micros,
        event=event,
        tenant_id=tenant_id,
        tenant=tenant,
        request_id=request_id,
        detail=decoded,
        detail_text=detail,
        hash=digest.hex(),
    )
