"""Whether finalised invoices are what the ledger says: recomputed, hashed, recorded in the audit trail, numbered."""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.actions import Action
from tenantd.errors import InvalidRequest
from tenantd.ledger.audit import read_head
from tenantd.ledger.invoice_lines import BILLED, Meter, money
from tenantd.ledger.invoices import Month, draft
from tenantd.ledger.issued import Issued, all_issued, issued
from tenantd.ledger.paperwork import CREDIT_NOTE, INVOICE, Paperwork, TenantInvoice, decoded, digest, paid
from tenantd.ledger.prices import all_prices
from tenantd.ledger.rows_kept import Pruned
from tenantd.ledger.sums import sums
from tenantd.periods import HOUR_MICROS

_BY: Final = ("tenant_id", "model", "adapter", "price_id")
_AT_THEIR_END: Final = "billed_micros IS NULL AND ended_micros >= ?1 AND ended_micros < ?2 AND NOT unbilled"
_LATER_ON: Final = "billed_micros >= ?1 AND billed_micros < ?2 AND NOT unbilled"
_FROM_ROWS: Final = f"""SELECT tenant_id, count(*), sum(input_nanos + cached_nanos + output_nanos + engine_nanos
    - free_nanos - waived_nanos) FROM (SELECT * FROM requests WHERE {_AT_THEIR_END}
    UNION ALL SELECT * FROM requests WHERE {_LATER_ON}) GROUP BY tenant_id"""
_FIRST_HOURS: Final = f"""SELECT tenant_id, min(hour_micros) FROM (
    SELECT tenant_id, hour_micros FROM hours WHERE billed_micros = 0 AND NOT unbilled
        AND hour_micros > ?1 - {HOUR_MICROS} AND hour_micros < ?2
    UNION ALL SELECT tenant_id, hour_micros FROM hours WHERE billed_micros > 0 AND {_LATER_ON}) GROUP BY tenant_id"""
_SHA256: Final = """SELECT iif(json_valid(detail), json_extract(detail, '$.after.sha256'), '') FROM audit
    WHERE number = ?"""
_LATER: Final = """SELECT json_extract(detail, '$.after.number') FROM audit WHERE number > ? AND event = 'administered'
    AND iif(json_valid(detail), json_extract(detail, '$.action') IN (?, ?), 0)"""
Period = tuple[int, int]


class InvoiceFinding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong. `number` is None if it is not about one invoice."""

    number: str | None
    problem: str


class InvoiceProof(msgspec.Struct, frozen=True, kw_only=True):
    """`checked` invoices and credit notes. `without_rows`: how many could only be compared with the sums of hours,
    because their requests were pruned. `without_entry`: how many have no entry, because the audit trail was off or
    was pruned since."""

    checked: int
    without_rows: int
    without_entry: int
    findings: list[InvoiceFinding]


def prove(conn: Connection, number: str | None = None) -> InvoiceProof:
    """Verify all, or one with its credit notes. Raises NotFound. May take long."""
    one = None if number is None else issued(conn, number)
    rows = all_issued(conn, None if one is None else one.number)
    return _Proof(conn).of(rows, whole=one is None)


class _Proof:
    """What is read once for several invoices of a period."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._prices = all_prices(conn)
        self._hours: dict[Period, dict[tuple[object, ...], dict[str, int]]] = {}
        self._rows: dict[Period, dict[int, tuple[int, int]]] = {}
        self._first_hours: dict[Period, dict[int, int]] = {}
        self._pruned_until_micros = Pruned(conn).until_micros
        head = read_head(conn)
        self._pruned_number = 0 if head is None else head.pruned_number
        self._without_rows = self._without_entry = 0

    def of(self, rows: list[Issued], *, whole: bool) -> InvoiceProof:
        """`whole`: these are all there are."""
        findings = [*_gaps(rows), *self._deleted(rows)] if whole else []
        documents: dict[int, TenantInvoice] = {}
        for row in rows:
            try:
                document = documents[row.number] = decoded(row.document)
            except (msgspec.DecodeError, UnicodeError):
                problem = "its document is not that of an invoice; restore a backup"
                findings.append(InvoiceFinding(number=str(row.number), problem=problem))
                continue
            name = document.number or str(row.number)
            findings += [InvoiceFinding(number=name, problem=each) for each in self._problems(row, document)]
        findings += _credits(rows, documents)
        return InvoiceProof(
            checked=len(rows),
            without_rows=self._without_rows,
            without_entry=self._without_entry,
            findings=findings,
        )

    def _problems(self, row: Issued, document: TenantInvoice) -> Iterator[str]:
        if digest(row.document) != row.hash:
            yield "its document does not have its hash: one of them was altered"
        columns = (row.kind, row.tenant_id, row.month, row.since_micros, row.until_micros, row.total_nanos)
        fields = (document.kind, document.tenant_id, document.month)
        if columns != (*fields, document.since_micros, document.until_micros, document.total_nanos):
            yield "its row and its document do not agree"
        if document.total_nanos != sum(line.amount_nanos for line in document.lines):
            yield "its lines do not add up to its total"
        yield from self._entry_problems(row)
        if document.kind == INVOICE:
            if paid(document) != document:
                yield "its amount due is not its total, rounded, plus tax"
            yield from self._usage_problems(document)

    def _entry_problems(self, row: Issued) -> Iterator[str]:
        if row.audit_number is None or row.audit_number <= self._pruned_number:
            self._without_entry += 1
            return
        entry = self._conn.execute(_SHA256, (row.audit_number,)).fetchone()
        if entry is None:
            yield "the audit trail no longer has its entry: the trail was altered"
        elif entry[0] != row.hash.hex():
            yield "the audit trail has another hash of it: it was altered after it was finalised"

    def _deleted(self, rows: list[Issued]) -> Iterator[InvoiceFinding]:
        """Invoices that the audit trail has behind the last one of the ledger."""
        last = max((row.audit_number or 0 for row in rows), default=0)
        for (number,) in self._conn.execute(
            _LATER, (last, Action.INVOICE_FINALIZED.value, Action.INVOICE_CREDITED.value)
        ):
            problem = "the audit trail has it, but the ledger does not: it was deleted, or an older backup was restored"
            yield InvoiceFinding(number=number, problem=problem)

    def _usage_problems(self, document: TenantInvoice) -> Iterator[str]:
        period = (document.since_micros, document.until_micros)
        if period not in self._hours:
            try:
                self._hours[period] = dict(sums(self._conn, *period, _BY, invoiced=True, only=BILLED))
            except InvalidRequest:  # it begins or ends within an hour whose rows were pruned
                self._without_rows += 1
                return
            rows = self._conn.execute(_FROM_ROWS, period).fetchall()
            self._rows[period] = {tenant_id: (count, nanos) for tenant_id, count, nanos in rows}
            self._first_hours[period] = dict(self._conn.execute(_FIRST_HOURS, period).fetchall())
        month = Month(
            name=document.month,
            timezone=document.timezone,
            since_micros=period[0],
            until_micros=period[1],
            is_over=True,
        )
        used = {key[1:]: row for key, row in self._hours[period].items() if key[0] == document.tenant_id}
        again = draft(self._conn, document.tenant_id, month, period[0], used, self._prices, Paperwork())  # type: ignore[arg-type]
        if _usage_of(again) != _usage_of(document):
            yield f"its requests come to {_described(again)}, but it says {_described(document)}"
        count, nanos = self._rows[period].get(document.tenant_id, (0, 0))
        may_lack = self._first_hours[period].get(document.tenant_id, 0) < self._pruned_until_micros
        if document.requests and (may_lack or not count):
            self._without_rows += 1
            return
        in_lines = sum(line.amount_nanos for line in document.lines if line.meter != Meter.MINIMUM)
        if (count, nanos) != (document.requests, in_lines):
            in_rows = f"{count} requests and {money(nanos)} {document.currency}"
            yield f"its rows come to {in_rows}, but it says {_described(document)}"


def _usage_of(document: TenantInvoice) -> tuple[object, ...]:
    return (
        document.requests,
        document.prompt_tokens,
        document.cached_tokens,
        document.completion_tokens,
        document.engine_micros,
        [line for line in document.lines if line.meter != Meter.MINIMUM],
    )


def _described(document: TenantInvoice) -> str:
    amount = sum(line.amount_nanos for line in document.lines if line.meter != Meter.MINIMUM)
    return f"{document.requests} requests and {money(amount)} {document.currency}"


def _gaps(rows: list[Issued]) -> Iterator[InvoiceFinding]:
    numbers = [row.number for row in rows]
    missing = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" and more" if len(missing) > 10 else "")
        yield InvoiceFinding(number=None, problem=f"numbers are missing: {shown}; somebody has deleted invoices")


def _credits(rows: list[Issued], documents: dict[int, TenantInvoice]) -> Iterator[InvoiceFinding]:
    """Notes without their invoice, and invoices with more credits than their total."""
    left = {row.number: row.total_nanos for row in rows if row.kind == INVOICE}
    for row in rows:
        if row.kind != CREDIT_NOTE or row.number not in documents:
            continue
        if row.credits not in left:
            yield InvoiceFinding(number=documents[row.number].number, problem="it credits no invoice of this ledger")
            continue
        left[row.credits] += row.total_nanos
        if left[row.credits] < 0:
            problem = "together with the earlier ones, it credits more than its invoice"
            yield InvoiceFinding(number=documents[row.number].number, problem=problem)
