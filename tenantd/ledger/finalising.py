"""Finalising invoices and correcting them: documents that never change, each with the next number.

The sums are made on a snapshot, in a reading thread, because they may take a second. That is enough: once a month is
over and no request admitted before its end runs, nothing can be added to it, except by requests admitted since while
the clock was wrong; and it begins elsewhere if the month before was finalised since in another time zone. `keep` looks
for both.
"""

from __future__ import annotations

from datetime import timedelta
from sqlite3 import Connection
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from tenantd.errors import Conflict, InvalidRequest
from tenantd.ledger.invoice_lines import InvoiceLine, Meter, money
from tenantd.ledger.invoices import Invoice, Month, invoice, month_before, running_before
from tenantd.ledger.issued import Record, credited, finalised_of, issue, issued, other_starts
from tenantd.ledger.paperwork import CREDIT_NOTE, INVOICE, Paperwork, TenantInvoice, decoded, paid
from tenantd.periods import EPOCH

MOST_REASON_CHARACTERS: Final = 500
_USED: Final = """SELECT 1 FROM requests WHERE tenant_id = ?1 AND created_micros < ?2 AND ended_micros < ?2
    AND billed_micros IS NULL LIMIT 1"""


class Ready(NamedTuple):
    """What can be finalised, and the number of the newest request when it was added up."""

    invoice: Invoice
    newest: int


def make_ready(conn: Connection, month: Month, tenant_id: int | None, papers: Paperwork) -> Ready:
    """Add up a month that can be finalised. Raises Conflict if it is not over, or a request of it still runs."""
    if not month.is_over:
        until = (EPOCH + timedelta(microseconds=month.until_micros)).astimezone(ZoneInfo(month.timezone))
        raise Conflict(
            f"{month.name} can be finalised once it is over, on {until:%Y-%m-%d} ({month.timezone}); "
            "to finalise the month before this one: tenantctl invoice --month last --finalize",
            param="month",
        )
    _check_running(conn, month, tenant_id)
    if tenant_id is not None:
        _check_existed(conn, month, tenant_id)
    (newest,) = conn.execute("SELECT coalesce(max(number), 0) FROM requests").fetchone()
    return Ready(invoice(conn, month, tenant_id, papers), newest)


def keep(
    conn: Connection,
    month: Month,
    tenant_id: int | None,
    ready: Ready,
    prefix: str,
    now_micros: int,
    record: Record,
) -> list[TenantInvoice]:
    """Finalise what is ready, in the caller's transaction. Returns what was not finalised before.

    Raises Conflict if it can no longer be; then it must be made ready again.
    """
    _check_running(conn, month, tenant_id)
    late = "SELECT 1 FROM requests WHERE number > ? AND +created_micros < ? LIMIT 1"  # + is: not by that index
    if conn.execute(late, (ready.newest, month.until_micros)).fetchone() is not None:
        raise Conflict(f"requests were added to {month.name} meanwhile; try again", param="month")
    before = finalised_of(conn, month.name, tenant_id)
    new = [one for one in ready.invoice.tenants if one.tenant_id not in before]
    starts = other_starts(conn, month_before(month.name), month.since_micros)
    if any(one.since_micros != starts.get(one.tenant_id, month.since_micros) for one in new):
        raise Conflict(f"the month before {month.name} was finalised meanwhile; try again", param="month")
    return [issue(conn, msgspec.structs.replace(one, issued_micros=now_micros), prefix, record) for one in new]


def credit(
    conn: Connection,
    number: str,
    reason: str,
    amount_nanos: int | None,
    prefix: str,
    now_micros: int,
    record: Record,
) -> TenantInvoice:
    """Correct an invoice by a credit note on `amount_nanos` before tax, or on all that is left of it.

    Raises NotFound, InvalidRequest, Conflict if that is more than what is left.
    """
    if not reason.strip() or not reason.isprintable() or len(reason) > MOST_REASON_CHARACTERS:
        raise InvalidRequest(
            f"reason: must have 1 to {MOST_REASON_CHARACTERS} characters and be one line", param="reason"
        )
    if amount_nanos is not None and amount_nanos <= 0:
        raise InvalidRequest("amount: must be more than 0", param="amount")
    row = issued(conn, number)
    if row.kind != INVOICE:
        raise Conflict(f"{number} is a credit note; only invoices can be credited", param="number")
    billed = decoded(row.document)
    notes = credited(conn, row.number)
    left = billed.total_nanos + sum(note.total_nanos for note in notes)
    amount = left if amount_nanos is None else amount_nanos
    if left <= 0:
        raise Conflict(f"nothing is left of invoice {billed.number} to credit", param="number")
    if amount > left:
        raise Conflict(
            f"amount: only {money(left)} {billed.currency} before tax is left of invoice {billed.number}",
            param="amount",
        )
    line = InvoiceLine(description=reason, quantity=0, unit="", amount_nanos=-amount, meter=Meter.CREDIT)
    note = paid(
        msgspec.structs.replace(
            billed,
            kind=CREDIT_NOTE,
            credits=billed.number,
            reason=reason,
            lines=[line],
            total_nanos=-amount,
            issued_micros=now_micros,
            **dict.fromkeys(_COUNTS, 0),
        )
    )
    if amount == left:  # together they pay back exactly what was to pay
        note = _rest(note, billed, notes)
    return issue(conn, note, prefix, record, row.number)


_COUNTS: Final = (
    *("requests", "prompt_tokens", "completion_tokens", "engine_micros", "cached_tokens"),
    *("total_requests", "total_input_tokens", "total_cached_tokens", "total_output_tokens"),
)


def _rest(note: TenantInvoice, billed: TenantInvoice, notes: list[TenantInvoice]) -> TenantInvoice:
    rest = {
        name: -getattr(billed, name) - sum(getattr(each, name) for each in notes)
        for name in ("rounded_nanos", "tax_nanos", "payable_nanos")
    }
    return msgspec.structs.replace(note, **rest)


def _check_running(conn: Connection, month: Month, tenant_id: int | None) -> None:
    if running := running_before(conn, month.until_micros, tenant_id):
        are = "1 request that was admitted before its end is still running" if running == 1 else ""
        are = are or f"{running} requests that were admitted before its end are still running"
        raise Conflict(
            f"{month.name} cannot be finalised yet: {are}; wait, or cancel (tenantctl requests, tenantctl cancel)",
            param="month",
            retry_after_s=10,
        )


def _check_existed(conn: Connection, month: Month, tenant_id: int) -> None:
    row = conn.execute("SELECT name, created_micros FROM tenants WHERE id = ?", (tenant_id,)).fetchone()
    if row is None or row[1] < month.until_micros:
        return
    if conn.execute(_USED, (tenant_id, month.until_micros)).fetchone() is None:
        raise Conflict(f"tenant {row[0]} did not exist in {month.name}, so there is nothing to finalise", param="month")
