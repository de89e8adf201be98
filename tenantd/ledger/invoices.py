"""What tenants owe for a month: the sum of the amounts in their rows, without recomputing any.

A month is half-open and begins at local midnight in the billing time zone. Requests count by the time of their end.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from sqlite3 import Connection
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from tenantd.config import NANOS
from tenantd.errors import InvalidRequest
from tenantd.ledger.audit import read_head
from tenantd.ledger.pieces import Sums, add_up, name_in, pieces
from tenantd.ledger.prices import all_prices, latest_prices
from tenantd.ledger.records import PriceList
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


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """`quantity` is an integer: tokens, or microseconds of engine time."""

    description: str
    quantity: int
    unit: str
    amount_nanos: int


class TenantInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one tenant, under its name at its last request of the month.

    `total_nanos` is the sum of its lines and of its requests' costs.
    """

    tenant: str
    tenant_id: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    engine_micros: int
    lines: list[InvoiceLine]
    total_nanos: int


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """The newest entry of the audit trail, `hash` in hex. Who keeps it can later show whether it was rewritten."""

    number: int
    hash: str


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """A month's settled requests. `open`: it can still grow, because the month is not over or a request still runs.

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
        raise InvalidRequest(f"month: must be YYYY-MM, 'this' or 'last' (got {text[:40]!r})", param="month")
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


_LINES: Final = """SELECT tenant_id, price_id, count(*) AS requests, sum(prompt_tokens) AS prompt_tokens,
    sum(completion_tokens) AS completion_tokens, sum(engine_micros) AS engine_micros,
    sum(input_nanos) AS input_nanos, sum(output_nanos) AS output_nanos, sum(engine_nanos) AS engine_nanos
    FROM requests WHERE {where} AND price_id IS NOT NULL
    GROUP BY tenant_id, price_id"""


def invoice(conn: Connection, month: Month, tenant_id: int | None = None) -> Invoice:
    """The invoice of all tenants with settled requests in `month`, or of one, without unbilled requests.

    Raises AmountTooLarge.
    """
    sums: Sums = {}
    running = 0
    for where, values in pieces(conn, month.since_micros, month.until_micros, tenant_id):
        where = f"{where} AND NOT unbilled"
        add_up(conn, _LINES, (where, values), ("tenant_id", "price_id"), sums)
        # In the same snapshot, so that a request is either in the sums or keeps the invoice open.
        running += conn.execute(
            f"SELECT count(*) FROM requests WHERE {where} AND state = 'running'", values
        ).fetchone()[0]
    groups: dict[int, list[dict[str, Any]]] = {}
    for _, row in sorted(sums.items()):
        groups.setdefault(row["tenant_id"], []).append(row)
    prices, latest = all_prices(conn), latest_prices(conn)
    assert latest is not None, "a ledger has a price list from when it is opened"
    head = read_head(conn)
    names = {number: name_in(conn, number, month.since_micros, month.until_micros) for number in groups}
    tenants = [
        _tenant_invoice(names[number], number, rows, prices)
        for number, rows in sorted(groups.items(), key=lambda group: (names[group[0]], group[0]))
    ]
    return Invoice(
        month=month.name,
        timezone=month.timezone,
        since_micros=month.since_micros,
        until_micros=month.until_micros,
        currency=latest.currency,  # the whole ledger has one currency and cannot be opened with another
        open=not month.is_over or running > 0,
        tenants=tenants,
        total_nanos=sum(part.total_nanos for part in tenants),
        audit_head=None if head is None else AuditHead(number=head.number, hash=head.hash.hex()),
    )


def _tenant_invoice(
    tenant: str, tenant_id: int, rows: list[dict[str, Any]], prices: dict[int, PriceList]
) -> TenantInvoice:
    """`rows` has one row for each price list that applied to the tenant's requests."""
    lines = [line for row in rows for line in _lines(row, prices[row["price_id"]], says_price=len(rows) > 1)]
    return TenantInvoice(
        tenant=tenant,
        tenant_id=tenant_id,
        requests=sum(row["requests"] for row in rows),
        prompt_tokens=sum(row["prompt_tokens"] for row in rows),
        completion_tokens=sum(row["completion_tokens"] for row in rows),
        engine_micros=sum(row["engine_micros"] for row in rows),
        lines=lines,
        total_nanos=sum(line.amount_nanos for line in lines),
    )


def _lines(row: dict[str, Any], prices: PriceList, *, says_price: bool) -> list[InvoiceLine]:
    """Lines for input and output, and for engine time if it has a price."""
    items = [
        ("input tokens", "prompt_tokens", "tokens", "input_nanos", prices.input_nanos_per_million, "million"),
        ("output tokens", "completion_tokens", "tokens", "output_nanos", prices.output_nanos_per_million, "million"),
    ]
    if prices.engine_hour_nanos or row["engine_nanos"]:
        items.append(("engine time", "engine_micros", "µs", "engine_nanos", prices.engine_hour_nanos, "hour"))
    return [
        InvoiceLine(
            description=f"{what} at {_money(price)} {prices.currency} per {per}" if says_price else what,
            quantity=row[quantity],
            unit=unit,
            amount_nanos=row[amount],
        )
        for what, quantity, unit, amount, price, per in items
    ]


def _money(nanos: int) -> str:
    """The shortest exact decimal with at least two places."""
    whole, _, fraction = f"{Decimal(nanos) / NANOS:f}".partition(".")
    return f"{whole}.{fraction.rstrip('0'):0<2}"


def _shift(year: int, month: int, months: int) -> tuple[int, int]:
    year, month = divmod(12 * year + month - 1 + months, 12)
    return year, month + 1
