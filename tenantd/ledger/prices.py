"""Price lists, and the cost of usage. Every amount is rounded once, half up, from the exact product."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.config import BillingConfig, price_nanos
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
    """The three amounts of one row."""

    input_nanos: int
    output_nanos: int
    engine_nanos: int


def cost_of(usage: Usage, prices: PriceList) -> Cost:
    """Raises AmountTooLarge."""
    cost = Cost(
        input_nanos=divide_half_up(usage.prompt_tokens * prices.input_nanos_per_million, MILLION),
        output_nanos=divide_half_up(usage.completion_tokens * prices.output_nanos_per_million, MILLION),
        engine_nanos=divide_half_up(usage.engine_micros * prices.engine_hour_nanos, HOUR_MICROS),
    )
    if cost.input_nanos + cost.output_nanos + cost.engine_nanos > MAX_INTEGER:
        raise AmountTooLarge(f"{usage} costs more than the ledger can hold at price list {prices.id}")
    return cost


def divide_half_up(numerator: int, denominator: int) -> int:
    """The nearest integer, rounding half up. Both arguments are non-negative integers."""
    return (2 * numerator + denominator) // (2 * denominator)


_COLUMNS = ", ".join(PriceList.__struct_fields__)


def latest_prices(conn: Connection) -> PriceList | None:
    """The current list: the one added last, whatever the wall clock said then."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM prices ORDER BY id DESC LIMIT 1").fetchone()
    return None if row is None else _price_list(row)


def all_prices(conn: Connection) -> dict[int, PriceList]:
    """Every list so far, by id, oldest first."""
    rows = conn.execute(f"SELECT {_COLUMNS} FROM prices ORDER BY id").fetchall()
    return {row[0]: _price_list(row) for row in rows}


def add_prices(conn: Connection, billing: BillingConfig, now_micros: int) -> PriceList:
    """The list for `billing`: the latest if it is the same, else a new one, effective now."""
    prices = PriceList(
        id=0,
        currency=billing.currency,
        input_nanos_per_million=price_nanos(billing.input_price_per_million),
        output_nanos_per_million=price_nanos(billing.output_price_per_million),
        engine_hour_nanos=price_nanos(billing.engine_hour_price),
        effective_micros=now_micros,
    )
    latest = latest_prices(conn)
    if latest is not None and latest == msgspec.structs.replace(
        prices, id=latest.id, effective_micros=latest.effective_micros
    ):
        return latest
    number = 1 if latest is None else latest.id + 1
    prices = msgspec.structs.replace(prices, id=number)
    conn.execute(f"INSERT INTO prices ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(prices))
    return prices


def _price_list(row: tuple[int, str, int, int, int, int]) -> PriceList:
    return PriceList(**dict(zip(PriceList.__struct_fields__, row, strict=True)))  # type: ignore[arg-type]
