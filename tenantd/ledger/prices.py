"""Price lists, and the cost of usage. Every amount is rounded once, half up, from the exact product."""

from __future__ import annotations

from decimal import Decimal
from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd.config import NANOS
from tenantd.domain import Usage
from tenantd.errors import TenantdError
from tenantd.ledger.records import PriceList

MILLION: Final = 1_000_000
HOUR_MICROS: Final = 3_600_000_000
MAX_INTEGER: Final = 2**63 - 1  # maximum of an SQLite column


class AmountTooLarge(TenantdError):
    """An amount, or a sum of amounts, does not fit 64 bits: more than nine billion units of the currency."""

    code = "amount_too_large"


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The amounts of one row."""

    input_nanos: int
    cached_nanos: int
    output_nanos: int
    engine_nanos: int


def cost_of(usage: Usage, prices: PriceList) -> Cost:
    """Raises AmountTooLarge."""
    cost = Cost(
        input_nanos=divide_half_up(usage.prompt_tokens * prices.input_nanos_per_million, MILLION),
        cached_nanos=divide_half_up(usage.cached_tokens * prices.cached_nanos_per_million, MILLION),
        output_nanos=divide_half_up(usage.completion_tokens * prices.output_nanos_per_million, MILLION),
        engine_nanos=divide_half_up(usage.engine_micros * prices.engine_hour_nanos, HOUR_MICROS),
    )
    if cost.input_nanos + cost.cached_nanos + cost.output_nanos + cost.engine_nanos > MAX_INTEGER:
        raise AmountTooLarge(f"{usage} costs more than the ledger can hold at price list {prices.id}")
    return cost


def divide_half_up(numerator: int, denominator: int) -> int:
    """The nearest integer, rounding half up. Both arguments are non-negative integers."""
    return (2 * numerator + denominator) // (2 * denominator)


def decimal_text(nanos: int) -> str:
    """An amount as the shortest exact decimal."""
    whole, _, fraction = f"{Decimal(nanos) / NANOS:f}".partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


_COLUMNS = ", ".join(PriceList.__struct_fields__)


def latest_prices(conn: Connection) -> PriceList | None:
    """The list for all tenants that was added last."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM prices WHERE tenant_id IS NULL ORDER BY id DESC LIMIT 1").fetchone()
    return None if row is None else _price_list(row)


_AT: Final = f"""SELECT {_COLUMNS} FROM prices WHERE tenant_id IS ? AND effective_micros <= ?
    ORDER BY effective_micros DESC, id DESC LIMIT 1"""


_FIRST: Final = f"""SELECT {_COLUMNS} FROM prices WHERE tenant_id IS NULL
    ORDER BY effective_micros, id DESC LIMIT 1"""


def prices_at(conn: Connection, at_micros: int, tenant_id: int | None = None) -> PriceList:
    """The list in force for a tenant at a moment: its own, or else that for all; before the first, the first."""
    if tenant_id is not None and (row := conn.execute(_AT, (tenant_id, at_micros)).fetchone()) is not None:
        own = _price_list(row)
        if not own.follows_general:
            return own
    row = conn.execute(_AT, (None, at_micros)).fetchone()
    if row is None:
        row = conn.execute(_FIRST).fetchone()
    assert row is not None, "a ledger has a price list from when it is opened"
    return _price_list(row)


def minimum_of(conn: Connection, tenant_id: int, until_micros: int) -> int:
    """The least that a tenant pays for a month that ends before `until_micros`: the minimum in force at its end.

    0 for a tenant that is unbilled, or was added later. The caller leaves out months in which it was already removed.
    """
    row = conn.execute("SELECT unbilled, created_micros FROM tenants WHERE id = ?", (tenant_id,)).fetchone()
    if row is not None and (row[0] or row[1] >= until_micros):
        return 0
    return prices_at(conn, until_micros - 1, tenant_id).minimum_nanos


def all_prices(conn: Connection, tenant_id: int | None = None) -> dict[int, PriceList]:
    """Every list so far, by id, oldest first; with `tenant_id`, its own and those of all."""
    where = "" if tenant_id is None else "WHERE tenant_id IS NULL OR tenant_id = :tenant"
    rows = conn.execute(f"SELECT {_COLUMNS} FROM prices {where} ORDER BY id", {"tenant": tenant_id}).fetchall()
    return {row[0]: _price_list(row) for row in rows}


def insert_prices(conn: Connection, prices: PriceList) -> PriceList:
    """Add a list, whose id is given here. Returns it with that."""
    (number,) = conn.execute("SELECT coalesce(max(id), 0) + 1 FROM prices").fetchone()
    prices = msgspec.structs.replace(prices, id=number)
    marks = ", ".join("?" * len(PriceList.__struct_fields__))
    conn.execute(f"INSERT INTO prices ({_COLUMNS}) VALUES ({marks})", msgspec.structs.astuple(prices))
    return prices


def _price_list(row: tuple[Any, ...]) -> PriceList:
    return PriceList(**dict(zip(PriceList.__struct_fields__, row, strict=True)))
