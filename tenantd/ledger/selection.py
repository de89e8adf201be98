"""Requests by time, tenant, key and state, the newest first, in portions that each take a fraction of a second.

Times, tenants and what runs are found by indexes. Keys and ends are looked for row by row, so rare ones in a large
ledger may take several portions; each says where the next one goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.domain import RUNNING
from tenantd.errors import Conflict, NotFound
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.requests import COLUMNS, as_record
from tenantd.request_ids import LEAST_OF_A_PART, PREFIX, digits_in, request_id_in
from tenantd.text.excerpt import excerpt

PORTION_S: Final = 0.25
PIECE_ROWS: Final = 5_000
"""Maximum rows looked at between two looks at the clock. The first piece is as long as what is wanted."""
END_OF_TIME: Final = 2**62
_ORDER: Final = "ORDER BY created_micros DESC, number DESC"
_PIECE: Final = f"""SELECT created_micros, number, {{matches}} FROM requests {{index}}
    WHERE {{where}} created_micros >= :since AND (created_micros, number) < (:created, :number)
    {_ORDER} LIMIT :size"""
_CONDITIONS: Final = {
    "key": "key_id = :key",
    "state": "state = :state",
    "ids": "id IN (SELECT value FROM json_each(:ids))",
}
_ROWS: Final = f"SELECT {COLUMNS} FROM requests WHERE number IN (SELECT value FROM json_each(?)) {_ORDER}"
_BEGIN: Final = "SELECT id FROM requests WHERE id >= ? AND id < ? LIMIT 2"
_END: Final = "SELECT id FROM requests WHERE substr(id, ?) = ? LIMIT 2"
_NEW_END: Final = """SELECT id FROM (SELECT id FROM requests ORDER BY id DESC LIMIT ?)
    WHERE substr(id, ?) = ? LIMIT 2"""
_OWN_END: Final = """SELECT id FROM (SELECT id FROM requests WHERE tenant_id = ? ORDER BY created_micros DESC LIMIT ?)
    WHERE substr(id, ?) = ? OR (id >= ? AND id < ?) LIMIT 2"""
MOST_OF_OWN: Final = 10_000
MOST_NEW: Final = 100_000
"""Ids looked at before all others, which takes some hundredths of a second; ids sort by time."""


class WantedRequests(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests; None matches any. They were created from `since_micros` until before `until_micros`.

    `state` is that of the row. `ids`: only those of these; with those that run, all of which are looked at.
    """

    tenant_id: int | None = None
    key_id: str | None = None
    state: str | None = None
    since_micros: int | None = None
    until_micros: int | None = None
    ids: Collection[str] | None = None


class FoundRequests(msgspec.Struct, frozen=True, kw_only=True):
    """Some requests, the newest first. `next` is the id of the last one looked at, to go on after; None at the end."""

    requests: list[RequestRecord]
    next: str | None


def select_requests(conn: Connection, wanted: WantedRequests, limit: int, after_id: str | None = None) -> FoundRequests:
    """At most `limit` requests: those after one of them, or the first. Fewer, or none, if it takes too long to find
    more; then `next` is not None. Raises NotFound for an `after_id` that has no row."""
    place = (END_OF_TIME if wanted.until_micros is None else wanted.until_micros, 0)
    if after_id is not None:
        place = min(place, _place_of(conn, after_id))
    query, values = _query(wanted)
    numbers: list[int] = []
    ends_s, size = time.monotonic() + PORTION_S, min(limit, PIECE_ROWS)
    while True:
        looked = conn.execute(query, {**values, "created": place[0], "number": place[1], "size": size}).fetchall()
        for created_micros, number, matches in looked:
            place = (created_micros, number)
            if matches:
                numbers.append(number)
            if len(numbers) == limit:
                return _found(conn, numbers, number)
        if len(looked) < size:
            return _found(conn, numbers)
        if time.monotonic() > ends_s:
            return _found(conn, numbers, place[1])
        size = min(2 * size, PIECE_ROWS)


def _query(wanted: WantedRequests) -> tuple[str, dict[str, object]]:
    runs = wanted.state == RUNNING and wanted.ids is not None  # few, and an index has them
    given = {
        "key": wanted.key_id,
        "state": None if runs else wanted.state,
        "ids": None if wanted.ids is None else json.dumps(list(wanted.ids)),
    }
    where = ("state = 'running' AND " if runs else "") + ("" if wanted.tenant_id is None else "tenant_id = :tenant AND")
    query = _PIECE.format(
        matches=" AND ".join(_CONDITIONS[name] for name, value in given.items() if value is not None) or "1",
        index="INDEXED BY requests_running" if runs else "",
        where=where,
    )
    return query, {"tenant": wanted.tenant_id, "since": wanted.since_micros or 0, **given}


def _found(conn: Connection, numbers: list[int], last: int | None = None) -> FoundRequests:
    rows = conn.execute(_ROWS, (json.dumps(numbers),))
    following = None if last is None else conn.execute("SELECT id FROM requests WHERE number = ?", (last,)).fetchone()
    return FoundRequests(requests=[as_record(row) for row in rows], next=following and following[0])


def _place_of(conn: Connection, request_id: str) -> tuple[int, int]:
    row = conn.execute("SELECT created_micros, number FROM requests WHERE id = ?", (request_id,)).fetchone()
    if row is None:
        raise NotFound(f"no request {excerpt(request_id, 80)}", param="after")
    return row[0], row[1]


def request_meant(conn: Connection, text: str, tenant_id: int | None = None) -> str:
    """The id of a request by its id, the id of its answer, or at least 8 digits at either end of its id.

    For a tenant, ends are looked for among its newest MOST_OF_OWN requests; a whole id is not checked. Otherwise among
    the newest MOST_NEW ids, and only if none has them among all, which may take a second in a large ledger. Raises
    NotFound, Conflict if several have these digits.
    """
    if (whole := request_id_in(text)) is not None:
        return whole
    if (digits := digits_in(text)) is None:
        raise NotFound(f"no request {excerpt(text, 80)}; give at least {LEAST_OF_A_PART} digits of its id")
    start, after = PREFIX + digits, PREFIX + digits + "g"
    end = "" if text.strip().startswith(PREFIX) else digits
    if tenant_id is not None:
        rows = conn.execute(_OWN_END, (tenant_id, MOST_OF_OWN, -len(digits), end, start, after)).fetchall()
    else:
        rows = conn.execute(_BEGIN, (start, after)).fetchall()
        if end and not rows:
            rows = conn.execute(_NEW_END, (MOST_NEW, -len(end), end)).fetchall()
            rows = rows or conn.execute(_END, (-len(end), end)).fetchall()
    if not rows:
        raise NotFound(f"no request has an id that begins or ends with {excerpt(text, 80)}")
    if len(rows) > 1:
        raise Conflict(f"several requests have ids that begin or end with {excerpt(text, 80)}; give more digits")
    return str(rows[0][0])
