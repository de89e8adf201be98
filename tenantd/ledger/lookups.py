"""A tenant's own rows: functions over a reading connection."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final

from tenantd.ledger.records import RequestRecord
from tenantd.ledger.requests import COLUMNS, as_record

_BEFORE: Final = "AND (created_micros, number) < (:created, :number)"
_PAGE: Final = f"""SELECT {COLUMNS} FROM requests WHERE tenant_id = :tenant {{before}}
    ORDER BY created_micros DESC, number DESC LIMIT :limit"""


def own_request(conn: Connection, tenant_id: int, request_id: str) -> RequestRecord | None:
    """A request of this tenant; None for another's as for one that never was.

    Both take the same: one row is looked up by its id and one is read, if need be the newest.
    """
    found = conn.execute("SELECT number FROM requests WHERE id = ?", (request_id,)).fetchone()
    newest = conn.execute("SELECT max(number) FROM requests").fetchone()
    [number] = newest if found is None else found
    row = conn.execute(f"SELECT {COLUMNS} FROM requests WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    record = as_record(row)
    return record if record.id == request_id and record.tenant_id == tenant_id else None


def own_requests(conn: Connection, tenant_id: int, limit: int, after: RequestRecord | None) -> list[RequestRecord]:
    """Requests of this tenant, the newest first: those that come `after` one of them, or the first."""
    if after is None:
        rows = conn.execute(_PAGE.format(before=""), {"tenant": tenant_id, "limit": limit})
    else:
        [number] = conn.execute("SELECT number FROM requests WHERE id = ?", (after.id,)).fetchone()
        place = {"tenant": tenant_id, "limit": limit, "created": after.created_micros, "number": number}
        rows = conn.execute(_PAGE.format(before=_BEFORE), place)
    return [as_record(row) for row in rows]
