"""Finalised invoices and credit notes: their table, which only grows, and whose numbers have no gaps."""

from __future__ import annotations

from collections.abc import Callable
from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd.errors import NotFound
from tenantd.ledger.paperwork import CREDIT_NOTE, INVOICE, TenantInvoice, decoded, digest, encoded

NUMBER_DIGITS: Final = 6
MOST_NUMBER_CHARACTERS: Final = 40
MOST_LISTED: Final = 10_000
_COLUMNS: Final = """number, kind, tenant_id, tenant, month, since_micros, until_micros, total_nanos, document, hash,
    credits, at_micros, audit_number"""
_INSERT: Final = f"INSERT INTO invoices ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table. `document` is JSON, `hash` its SHA-256. `audit_number` is that of its entry of the audit
    trail; None if there was no trail."""

    number: int
    kind: str
    tenant_id: int
    tenant: str
    month: str
    since_micros: int
    until_micros: int
    total_nanos: int
    document: str
    hash: bytes
    credits: int | None
    at_micros: int
    audit_number: int | None


class ListedInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """A finalised invoice or a credit note in a list. `credited_nanos` is what credit notes took off an invoice."""

    number: str
    kind: str
    tenant: str
    tenant_id: int
    month: str
    currency: str
    total_nanos: int
    payable_nanos: int
    credited_nanos: int
    credits: str | None
    issued_micros: int
    sha256: str


Record = Callable[[TenantInvoice, str], int | None]
"""Adds the entry of the audit trail for a document and its SHA-256 in hex. Returns its number; None without a trail."""


def issue(
    conn: Connection, invoice: TenantInvoice, prefix: str, record: Record, credits: int | None = None
) -> TenantInvoice:
    """Give a document the next number and keep it, in the caller's transaction. Returns it with its number."""
    (number,) = conn.execute("SELECT coalesce(max(number), 0) + 1 FROM invoices").fetchone()
    numbered = msgspec.structs.replace(invoice, number=f"{prefix}{number:0{NUMBER_DIGITS}d}")
    assert numbered.issued_micros is not None, "it is issued now"
    document = encoded(numbered)
    row = Issued(
        number=number,
        kind=invoice.kind,
        tenant_id=invoice.tenant_id,
        tenant=invoice.tenant,
        month=invoice.month,
        since_micros=invoice.since_micros,
        until_micros=invoice.until_micros,
        total_nanos=invoice.total_nanos,
        document=document,
        hash=digest(document),
        credits=credits,
        at_micros=numbered.issued_micros,
        audit_number=record(numbered, digest(document).hex()),
    )
    conn.execute(_INSERT, msgspec.structs.astuple(row))
    return numbered


def finalised_of(conn: Connection, month: str, tenant_id: int | None = None) -> dict[int, TenantInvoice]:
    """The finalised invoices of a month, by tenant."""
    rows = conn.execute(
        "SELECT tenant_id, document FROM invoices WHERE kind = ? AND month = ? AND tenant_id = coalesce(?, tenant_id)",
        (INVOICE, month, tenant_id),
    )
    return {number: decoded(document) for number, document in rows}


def other_starts(conn: Connection, month_before: str, since_micros: int) -> dict[int, int]:
    """When the month after `month_before` begins for tenants whose invoice of that did not end at `since_micros`.

    So no request is on two invoices or on none after the time zone of months was changed.
    """
    rows = conn.execute(
        "SELECT tenant_id, until_micros FROM invoices WHERE kind = ? AND month = ? AND until_micros <> ?",
        (INVOICE, month_before, since_micros),
    )
    return dict(rows.fetchall())


def issued(conn: Connection, number: str) -> Issued:
    """By the number that the document has, or without its prefix and zeros. Raises NotFound."""
    query = f"""SELECT {_COLUMNS} FROM invoices
        WHERE iif(json_valid(document), json_extract(document, '$.number') = ?, 0)"""
    row = conn.execute(query, (number,)).fetchone()
    if row is None and number.isascii() and number.isdecimal() and len(number) < 18:
        row = conn.execute(f"SELECT {_COLUMNS} FROM invoices WHERE number = ?", (int(number),)).fetchone()
    if row is None:
        raise NotFound(
            f"no invoice has the number {number[:MOST_NUMBER_CHARACTERS]!r}; to list them: tenantctl invoice list",
            param="number",
        )
    return _row(row)


def all_issued(conn: Connection, number: int | None = None) -> list[Issued]:
    """Every row, oldest first, or one and those that credit it."""
    query = f"SELECT {_COLUMNS} FROM invoices WHERE :number IS NULL OR number = :number OR credits = :number"
    return [_row(row) for row in conn.execute(f"{query} ORDER BY number", {"number": number})]


def credited(conn: Connection, number: int) -> list[TenantInvoice]:
    """The credit notes on an invoice, oldest first."""
    query = "SELECT document FROM invoices WHERE credits = ? ORDER BY number"
    return [decoded(document) for (document,) in conn.execute(query, (number,))]


def credit_notes(conn: Connection, since_micros: int, until_micros: int, tenant_id: int | None) -> list[TenantInvoice]:
    """Those issued in a period, oldest first."""
    rows = conn.execute(
        """SELECT document FROM invoices WHERE kind = ? AND at_micros >= ? AND at_micros < ?
        AND tenant_id = coalesce(?, tenant_id) ORDER BY number""",
        (CREDIT_NOTE, since_micros, until_micros, tenant_id),
    )
    return [decoded(document) for (document,) in rows]


def listed(conn: Connection, tenant_id: int | None = None, month: str | None = None) -> list[ListedInvoice]:
    """The newest first, at most MOST_LISTED."""
    rows = conn.execute(
        f"""SELECT {_COLUMNS}, (SELECT coalesce(-sum(total_nanos), 0) FROM invoices AS notes
        WHERE notes.credits = invoices.number) FROM invoices
        WHERE tenant_id = coalesce(?, tenant_id) AND month = coalesce(?, month) ORDER BY number DESC LIMIT ?""",
        (tenant_id, month, MOST_LISTED),
    )
    return [_listed(_row(row[:-1]), row[-1]) for row in rows]


def _listed(row: Issued, credited_nanos: int) -> ListedInvoice:
    document = decoded(row.document)
    return ListedInvoice(
        number=document.number or str(row.number),
        kind=row.kind,
        tenant=row.tenant,
        tenant_id=row.tenant_id,
        month=row.month,
        currency=document.currency,
        total_nanos=row.total_nanos,
        payable_nanos=document.payable_nanos,
        credited_nanos=credited_nanos,
        credits=document.credits,
        issued_micros=row.at_micros,
        sha256=row.hash.hex(),
    )


def _row(row: tuple[Any, ...]) -> Issued:
    return Issued(**dict(zip(Issued.__struct_fields__, row, strict=True)))
