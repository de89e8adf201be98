"""Administration of invoices: show, finalise, credit, verify, export."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final, TypedDict

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tenantd import clock
from tenantd.api.admin.audit_routes import Parse
from tenantd.api.body import Body
from tenantd.api.identity import actor_of
from tenantd.api.operations import Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.config import NANOS
from tenantd.errors import InvalidRequest
from tenantd.ledger.invoice_proof import InvoiceProof
from tenantd.ledger.invoices import Invoice, Month
from tenantd.ledger.issued import ListedInvoice
from tenantd.ledger.paperwork import Paperwork, TenantInvoice
from tenantd.request_ids import new_request_id
from tenantd.serving.service import Service
from tenantd.tenancy.invoicing import Invoicing

CSV: Final = "text/csv"
_AMOUNT: Final = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?")


class Finalizing(Body):
    """POST /admin/v1/invoices/{month}/finalize. Without `tenant`: of all tenants that owe something."""

    tenant: str | None = None


class Crediting(Body):
    """POST /admin/v1/invoices/issued/{number}/credit. `amount` is a decimal in the invoice's currency, before tax; null
    is all that is left of the invoice."""

    reason: str
    amount: str | None = Field(None, description="An exact decimal, such as 12.50.")

    def amount_nanos(self) -> int | None:
        """Raises InvalidRequest."""
        if self.amount is None:
            return None
        if not _AMOUNT.fullmatch(self.amount):
            raise InvalidRequest(
                f"amount: must be a positive decimal with at most nine places (got {self.amount[:40]!r})",
                param="amount",
            )
        return int(Decimal(self.amount) * NANOS)


class IssuedInvoices(TypedDict):
    """The newest first."""

    invoices: list[ListedInvoice]


class IssuedInvoice(TypedDict):
    """A finalised invoice or a credit note, as it was issued."""

    invoice: TenantInvoice


def invoice_operations(service: Service, parse: Parse, month_of: Callable[[str], Month]) -> list[Operation]:
    """`parse` reads and checks the body of a request, `month_of` a month."""
    records = service.config.security.is_audited
    invoicing = Invoicing(service.ledger, service.events, records=records)

    def papers() -> Paperwork:
        return Paperwork.of(service.config.billing)

    def begun(month: str) -> Month:
        parsed = month_of(month)
        if parsed.since_micros > clock.now_micros():
            raise InvalidRequest(f"{parsed.name} has not started, so it has no invoice yet", param="month")
        return parsed

    async def list_invoices(tenant: str | None = None, month: str | None = None) -> Response:
        """List finalised invoices and credit notes, of a tenant or a month."""
        name = None if month is None else month_of(month).name
        return reply({"invoices": await invoicing.list_issued(tenant, name)})

    async def verify_invoices(request: Request, number: str | None = None) -> Response:
        """Verify finalised invoices: recompute them from sums and rows, and check hashes, audit trail and numbers."""
        return reply(await while_connected(request, invoicing.verify(number)))

    async def show_invoice(number: str) -> Response:
        """Show a finalised invoice or a credit note."""
        return reply({"invoice": await invoicing.show_issued(number)})

    async def credit_invoice(request: Request, number: str) -> Response:
        """Correct a finalised invoice with a credit note, for an amount or for all that remains of it."""
        body = await parse(request, Crediting)
        actor = actor_of(request.scope)
        note = await invoicing.credit(actor, number, body.reason, body.amount_nanos(), papers().prefix)
        return reply({"invoice": note}, status=201)

    async def invoice(request: Request, month: str, tenant: str | None = None) -> Response:
        """Show the invoices of a month: YYYY-MM, this or last. Finalised ones are shown as they were issued."""
        return reply(await while_connected(request, invoicing.show_month(begun(month), tenant, papers())))

    async def finalize_invoices(request: Request, month: str) -> Response:
        """Finalise the invoices of a month that is over: they get numbers and never change. Can be repeated."""
        body = await parse(request, Finalizing)
        parsed = begun(month)
        return reply(await invoicing.finalize(actor_of(request.scope), parsed, body.tenant, papers()))

    async def export_focus(request: Request, month: str, tenant: str | None = None) -> Response:
        """Export costs and usage of a month as CSV, as the dataset CostAndUsage of FOCUS 1.4."""
        work = invoicing.export_focus(begun(month), tenant, papers())
        text = await while_connected(request, work)
        return Response(text, headers={"x-request-id": new_request_id()}, media_type=CSV)

    invoices = "/admin/v1/invoices"
    return [
        Operation("GET", invoices, list_invoices, IssuedInvoices),
        Operation("GET", f"{invoices}/verification", verify_invoices, InvoiceProof),
        Operation("GET", f"{invoices}/issued/{{number}}", show_invoice, IssuedInvoice),
        Operation("POST", f"{invoices}/issued/{{number}}/credit", credit_invoice, IssuedInvoice, Crediting, 201),
        Operation("GET", f"{invoices}/{{month}}", invoice, Invoice),
        Operation("POST", f"{invoices}/{{month}}/finalize", finalize_invoices, Invoice, Finalizing),
        Operation("GET", "/admin/v1/exports/focus/{month}", export_focus, str, media_type=CSV),
    ]
