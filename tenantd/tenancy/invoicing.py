"""Invoices as administrators ask for them: shown, finalised, credited, verified, exported.

Finalising and crediting are each one transaction, which also has their entries in the audit trail, with the hash of
each document. They are announced.
"""

from __future__ import annotations

from collections.abc import Callable
from sqlite3 import Connection
from typing import Any, TypeVar

from tenantd import clock
from tenantd.actions import Action
from tenantd.domain import Actor
from tenantd.events import Administered, Events
from tenantd.ledger import finalising
from tenantd.ledger.audit import Entry, append, read_head
from tenantd.ledger.focus import focus_csv
from tenantd.ledger.invoice_proof import InvoiceProof, prove
from tenantd.ledger.invoices import Invoice, Month, invoice
from tenantd.ledger.issued import ListedInvoice, Record, issued, listed
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.ledger.paperwork import Paperwork, TenantInvoice, decoded
from tenantd.tenancy.recorded import ADMINISTERED, by, of_actor
from tenantd.tenancy.tenants import tenant_meant

T = TypeVar("T")
_ABOUT = ("number", "kind", "month", "currency", "total_nanos", "payable_nanos", "credits", "reason")
"""What the audit trail tells of a document, besides its hash."""


class Invoicing:
    """All raise what `Ledger.read` or `Ledger.write` raises, and NotFound for a name that no tenant ever had."""

    def __init__(self, ledger: Ledger, events: Events, *, records: bool) -> None:
        """`records`: whether there is an audit trail."""
        self._ledger = ledger
        self._events = events
        self._records = records

    # -- reading

    async def show_month(self, month: Month, tenant: str | None, papers: Paperwork) -> Invoice:
        """What tenants owe for a month, or one, even if it owes nothing."""
        return await self._read(lambda conn, number: invoice(conn, month, number, papers), tenant)

    async def list_issued(self, tenant: str | None, month: str | None) -> list[ListedInvoice]:
        """Finalised invoices and credit notes, the newest first."""
        return await self._read(lambda conn, number: listed(conn, number, month), tenant)

    async def show_issued(self, number: str) -> TenantInvoice:
        """A finalised invoice or credit note. Raises NotFound."""
        return await self._ledger.read(lambda conn: decoded(issued(conn, number).document))

    async def verify(self, number: str | None) -> InvoiceProof:
        """Recompute all, or one and its credit notes. May take long. Raises NotFound."""
        return await self._ledger.read(lambda conn: prove(conn, number), Lane.REPORTS)

    async def export_focus(self, month: Month, tenant: str | None, papers: Paperwork) -> str:
        """Costs and usage of a month, as CSV. May take long."""
        return await self._read(lambda conn, number: focus_csv(conn, month, number, papers), tenant)

    # -- changing

    async def finalize(self, actor: Actor, month: Month, tenant: str | None, papers: Paperwork) -> Invoice:
        """Finalise what is not finalised yet. Returns all of the month. Raises Conflict if it cannot be yet."""
        ready = await self._read(lambda conn, number: finalising.make_ready(conn, month, number, papers), tenant)
        now_micros = clock.now_micros()

        def work(conn: Connection) -> list[TenantInvoice]:
            number = None if tenant is None else tenant_meant(conn, tenant)
            record = self._recording(conn, actor, Action.INVOICE_FINALIZED, now_micros)
            return finalising.keep(conn, month, number, ready, papers.prefix, now_micros, record)

        for made in await self._ledger.write(work):
            self._announce(actor, Action.INVOICE_FINALIZED, made)
        return await self.show_month(month, tenant, papers)

    async def credit(
        self, actor: Actor, number: str, reason: str, amount_nanos: int | None, prefix: str
    ) -> TenantInvoice:
        """Correct an invoice by a credit note. Raises NotFound, InvalidRequest, Conflict."""
        now_micros = clock.now_micros()

        def work(conn: Connection) -> TenantInvoice:
            record = self._recording(conn, actor, Action.INVOICE_CREDITED, now_micros)
            return finalising.credit(conn, number, reason, amount_nanos, prefix, now_micros, record)

        note = await self._ledger.write(work)
        self._announce(actor, Action.INVOICE_CREDITED, note)
        return note

    # -- shared

    def _recording(self, conn: Connection, actor: Actor, action: Action, now_micros: int) -> Record:
        def record(document: TenantInvoice, sha256: str) -> int | None:
            if not self._records:
                return None
            after: dict[str, Any] = {name: getattr(document, name) for name in _ABOUT}
            detail = {"action": action.value, "by": by(actor), "before": None, "after": {**after, "sha256": sha256}}
            entry = Entry(
                at_micros=now_micros,
                event=ADMINISTERED,
                tenant_id=document.tenant_id,
                tenant=document.tenant,
                detail=detail,
            )
            append(conn, [entry])
            head = read_head(conn)
            assert head is not None, "an entry was appended"
            return head.number

        return record

    def _announce(self, actor: Actor, action: Action, document: TenantInvoice) -> None:
        self._events.announce(
            Administered(
                action=action,
                **of_actor(actor),
                tenant=document.tenant,
                tenant_id=document.tenant_id,
            )
        )

    async def _read(self, work: Callable[[Connection, int | None], T], tenant: str | None) -> T:
        def read(conn: Connection) -> T:
            return work(conn, None if tenant is None else tenant_meant(conn, tenant))

        return await self._ledger.read(read, Lane.REPORTS)
