"""All that the ledger has of one request: its row, its key, its prices, and its entries in the audit trail."""

from __future__ import annotations

from sqlite3 import Connection

import msgspec

from tenantd.errors import NotFound
from tenantd.ledger.lookups import any_request
from tenantd.ledger.prices import all_prices
from tenantd.ledger.records import PriceList, RequestRecord
from tenantd.ledger.selection import request_meant
from tenantd.ledger.trail import MOST_ENTRIES_READ, AuditRecord, Wanted, select
from tenantd.tenancy.keys import KeyInfo, find_key
from tenantd.text.excerpt import excerpt


class RequestLife(msgspec.Struct, frozen=True, kw_only=True):
    """`prices` is None while it runs. Entries are the oldest first; none if the trail is off or was pruned."""

    request: RequestRecord
    key: KeyInfo | None
    prices: PriceList | None
    entries: list[AuditRecord]


def request_life(conn: Connection, text: str) -> RequestLife:
    """By its id, that of its answer, or digits at an end of its id. Raises NotFound, Conflict."""
    row = any_request(conn, request_meant(conn, text))
    if row is None:
        raise NotFound(f"no request {excerpt(text, 80)} is in the ledger: it never was, or it was pruned")
    prices = None if row.price_id is None else all_prices(conn).get(row.price_id)
    key = None if row.key_id is None else find_key(conn, row.key_id)
    found = select(conn, Wanted(request_id=row.id), limit=MOST_ENTRIES_READ, after=0)
    return RequestLife(request=row, key=key, prices=prices, entries=found.entries)
