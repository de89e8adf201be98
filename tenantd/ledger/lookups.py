"""Single rows, and a tenant's own: functions over a reading connection."""

from __future__ import annotations

from sqlite3 import Connection

from tenantd.ledger.records import RequestRecord
from tenantd.ledger.requests import COLUMNS, as_record


def any_request(conn: Connection, request_id: str) -> RequestRecord | None:
    """A request of whichever tenant."""
    row = conn.execute(f"SELECT {COLUMNS} FROM requests WHERE id = ?", (request_id,)).fetchone()
    return None if row is None else as_record(row)


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
