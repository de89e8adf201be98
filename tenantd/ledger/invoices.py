"""What tenants owe for a month: the sum of the amounts in their rows, without recomputing any.

A month is half-open and begins at local midnight in the billing time zone. Requests count by the time of their end, or
when they are billed, if their month was finalised before they were settled.
Invoices that are finalised are shown as they were then.
"""

from __future__ import annotations

import re
from datetime import date
from sqlite3 import Connection
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from tenantd.domain import BillingDetails
from tenantd.errors import InvalidRequest
from tenantd.ledger.audit import read_head
from tenantd.ledger.invoice_lines import BILLED, Group, lines_of
from tenantd.ledger.invoice_lines import InvoiceLine as InvoiceLine
from tenantd.ledger.issued import finalised_of, other_starts
from tenantd.ledger.paperwork import Paperwork, paid
from tenantd.ledger.paperwork import TenantInvoice as TenantInvoice
from tenantd.ledger.prices import MAX_INTEGER, all_prices, latest_prices, minimum_of
from tenantd.ledger.records import PriceList
from tenantd.ledger.reports import name_before
from tenantd.ledger.sums import sums, too_large
from tenantd.periods import local_date, midnight_micros

OLDEST_YEAR: Final = 1900
NEWEST_YEAR: Final = 9998  # the next month must still have a valid date

_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """From `since_micros` until just before `until_micros`, by the wall clock."""

    name: str  # "2026-11"
    timezone: str
    since_micros: int
    until_micros: int
    is_over: bool


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """The newest entry of the audit trail, `hash` in hex. Who keeps it can later show whether it was rewritten."""

    number: int
    hash: str


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """A month's settled requests, or what was finalised. `open`: it can still grow, because the month is not over or a
    request still runs.

    `audit_head` is that of the moment; None if it was deleted.
    """

    month: str
    timezone: str
    since_micros: int
    until_micros: int
    currency: str
    open: bool
    tenants: list[TenantInvoice]
    total_nanos: int
    audit_head: AuditHead | None = None


def parse_month(text: str, timezone: ZoneInfo, now_micros: int) -> Month:
    """Parse "2026-11", "this" or "last". Raises InvalidRequest."""
    now = local_date(now_micros, timezone)
    if text == "this":
        year, month = now.year, now.month
    elif text == "last":
        year, month = _shift(now.year, now.month, -1)
    elif match := _MONTH.fullmatch(text):
        year, month = int(match[1]), int(match[2])
    else:
        raise InvalidRequest(
            f"month: must be YYYY-MM such as 2026-09, 'this' or 'last' (got {text[:40]!r})", param="month"
        )
    if not OLDEST_YEAR <= year <= NEWEST_YEAR:
        raise InvalidRequest(
            f"month: must be from {OLDEST_YEAR}-01 to {NEWEST_YEAR}-12 (got {text[:40]!r})", param="month"
        )
    until_micros = midnight_micros(date(*_shift(year, month, 1), 1), timezone)
    return Month(
        name=f"{year:04}-{month:02}",
        timezone=str(timezone),
        since_micros=midnight_micros(date(year, month, 1), timezone),
        until_micros=until_micros,
        is_over=now_micros >= until_micros,
    )


_PLAIN: Final = Paperwork()
_BY: Final = ("tenant_id", "model", "adapter", "price_id")
Groups = dict[int, dict[Group, dict[str, int]]]
"""The sums of each tenant, by model, adapter and price."""


def invoice(conn: Connection, month: Month, tenant_id: int | None = None, papers: Paperwork = _PLAIN) -> Invoice:
    """The invoices of all tenants that owe something for `month`, or of one, even if it owes nothing.

    Requests of unbilled tenants are on none. Raises AmountTooLarge.
    """
    finalised = finalised_of(conn, month.name, tenant_id)
    starts = other_starts(conn, month_before(month.name), month.since_micros)
    groups = sums_of(conn, month, tenant_id, starts)
    prices, latest = all_prices(conn), latest_prices(conn)
    assert latest is not None, "a ledger has a price list from when it is opened"
    head = read_head(conn)
    drafts = [
        draft(conn, number, month, starts.get(number, month.since_micros), rows, prices, papers)
        for number, rows in groups.items()
        if number not in finalised and (rows or owes_without_usage(conn, number, month, is_asked=tenant_id is not None))
    ]
    tenants = sorted([*finalised.values(), *drafts], key=lambda part: (part.tenant, part.tenant_id))
    total_nanos = sum(part.total_nanos for part in tenants)
    if total_nanos > MAX_INTEGER:
        raise too_large()
    return Invoice(
        month=month.name,
        timezone=month.timezone,
        since_micros=month.since_micros,
        until_micros=month.until_micros,
        currency=latest.currency,  # the whole ledger has one currency and cannot be opened with another
        open=not month.is_over or running_before(conn, month.until_micros, tenant_id) > 0,
        tenants=tenants,
        total_nanos=total_nanos,
        audit_head=None if head is None else AuditHead(number=head.number, hash=head.hash.hex()),
    )


def sums_of(conn: Connection, month: Month, tenant_id: int | None, starts: dict[int, int]) -> Groups:
    """What was used in a month and is billed, also of tenants without usage who may owe a minimum.

    `starts` are the tenants whose month begins at another time. Raises AmountTooLarge.
    """
    groups: Groups = {number: {} for number in _may_owe(conn, month, tenant_id)}
    found = sums(conn, month.since_micros, month.until_micros, _BY, tenant_id=tenant_id, invoiced=True, only=BILLED)
    for (number, *group), row in found.items():
        if number not in starts:
            groups.setdefault(number, {})[tuple(group)] = row
    for number, since_micros in starts.items():
        if tenant_id in (None, number):
            found = sums(conn, since_micros, month.until_micros, _BY[1:], tenant_id=number, invoiced=True, only=BILLED)
            groups.setdefault(number, {}).update(found)
    return groups


def draft(
    conn: Connection,
    tenant_id: int,
    month: Month,
    since_micros: int,
    rows: dict[Group, dict[str, int]],
    prices: dict[int, PriceList],
    papers: Paperwork,
) -> TenantInvoice:
    """What a tenant owes by these sums of a month that begins at `since_micros`, at least the minimum that is in force
    at the end of the month."""
    _, is_removed, customer = _facts(conn, tenant_id)
    lines = lines_of(rows, prices, minimum_of(conn, tenant_id, month.until_micros))
    count = {name: sum(row[name] for row in rows.values()) for name in _COUNTED}
    return paid(
        TenantInvoice(
            tenant=name_before(conn, tenant_id, month.until_micros),
            tenant_id=tenant_id,
            requests=count["requests"],
            prompt_tokens=count["prompt_tokens"],
            cached_tokens=count["cached_tokens"],
            completion_tokens=count["completion_tokens"],
            engine_micros=count["engine_micros"],
            lines=lines,
            total_nanos=sum(line.amount_nanos for line in lines),
            total_requests=count["requests"],
            total_input_tokens=count["prompt_tokens"],
            total_cached_tokens=count["cached_tokens"],
            total_output_tokens=count["completion_tokens"],
            month=month.name,
            timezone=month.timezone,
            since_micros=since_micros,
            until_micros=month.until_micros,
            currency=next(iter(prices.values())).currency,
            is_removed=is_removed,
            issuer=papers.issuer,
            customer=customer,
            terms=papers.terms,
            tax_name=papers.tax_name,
            tax_percent=papers.tax_percent,
        )
    )


_COUNTED: Final = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "engine_micros")


def running_before(conn: Connection, until_micros: int, tenant_id: int | None = None) -> int:
    """How many billed requests admitted before a moment still run."""
    (running,) = conn.execute(
        """SELECT count(*) FROM requests WHERE state = 'running' AND created_micros < ? AND NOT unbilled
        AND tenant_id = coalesce(?, tenant_id)""",
        (until_micros, tenant_id),
    ).fetchone()
    return int(running)


def owes_without_usage(conn: Connection, tenant_id: int, month: Month, *, is_asked: bool) -> bool:
    """Whether a tenant without billed usage gets an invoice: if it is asked for, or for the minimum."""
    is_unbilled, _, _ = _facts(conn, tenant_id)
    return not is_unbilled and (is_asked or minimum_of(conn, tenant_id, month.until_micros) > 0)


def _may_owe(conn: Connection, month: Month, tenant_id: int | None) -> list[int]:
    """The tenant that is asked for, or all that were there for the whole month."""
    if tenant_id is not None:
        return [tenant_id]
    rows = conn.execute(
        "SELECT id FROM tenants WHERE state <> 'removed' AND NOT unbilled AND created_micros <= ?",
        (month.since_micros,),
    )
    return [number for (number,) in rows]


def _facts(conn: Connection, tenant_id: int) -> tuple[bool, bool, BillingDetails]:
    """Whether a tenant is unbilled, whether it was removed, and whom its invoices are addressed to."""
    row = conn.execute("SELECT unbilled, state, billing FROM tenants WHERE id = ?", (tenant_id,)).fetchone()
    if row is None:
        return False, True, BillingDetails()
    return bool(row[0]), row[1] == "removed", msgspec.json.decode(row[2], type=BillingDetails)


def month_before(name: str) -> str:
    """The name of the month before another."""
    year, month = _shift(int(name[:4]), int(name[5:]), -1)
    return f"{year:04}-{month:02}"


def _shift(year: int, month: int, months: int) -> tuple[int, int]:
    year, month = divmod(12 * year + month - 1 + months, 12)
    return year, month + 1
