"""The lines of an invoice, made of the sums of a tenant's rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import PurePath
from typing import Final, NamedTuple

import msgspec

from tenantd.ledger.prices import decimal_text
from tenantd.ledger.records import PriceList


class Meter(StrEnum):
    """What a line is about. The first four are used, the others change what is owed."""

    INPUT = "input_tokens"
    CACHED = "cached_tokens"
    OUTPUT = "output_tokens"
    ENGINE = "engine_time"
    FREE = "free_quota"
    WAIVED = "waived"  # beyond a budget
    MINIMUM = "minimum"  # what is missing to reach that of the month
    CREDIT = "credit"  # of a credit note


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """`quantity` is an integer: tokens, or microseconds of engine time; 0 with the unit "" where there is none.

    `unit_price_nanos` is the price of a million tokens or of an hour, or the minimum of a month. `adapter` is the name
    of the adapter's file.
    """

    description: str
    quantity: int
    unit: str
    amount_nanos: int
    meter: str = ""
    model: str = ""
    adapter: str = ""
    unit_price_nanos: int | None = None


class Metered(NamedTuple):
    """Which sums and prices belong to a meter."""

    meter: Meter
    label: str
    quantity: str
    unit: str
    amount: str
    price: str
    per: str


METERED: Final = (
    Metered(
        Meter.INPUT, "input tokens", "prompt_tokens", "tokens", "input_nanos", "input_nanos_per_million", "million"
    ),
    Metered(
        Meter.CACHED, "cached tokens", "cached_tokens", "tokens", "cached_nanos", "cached_nanos_per_million", "million"
    ),
    Metered(
        Meter.OUTPUT,
        "output tokens",
        "completion_tokens",
        "tokens",
        "output_nanos",
        "output_nanos_per_million",
        "million",
    ),
    Metered(Meter.ENGINE, "engine time", "engine_micros", "µs", "engine_nanos", "engine_hour_nanos", "hour"),
)
BILLED: Final = (
    "requests",
    *(one.quantity for one in METERED),
    *(one.amount for one in METERED),
    "free_nanos",
    "waived_nanos",
)
"""The sums that invoices are made of."""
Group = tuple[str, str, int]
"""Model, path of the adapter ("" for none), id of the price list."""
_Key = tuple[str, str, int, int]


def lines_of(
    sums: Mapping[Group, Mapping[str, int]], prices: Mapping[int, PriceList], minimum_nanos: int = 0
) -> list[InvoiceLine]:
    """By model and adapter, one line for each price: input, output, cached tokens if there are any, and engine time if
    it has a price.

    Then what is taken off, and what is missing to reach the minimum of the month. `sums` are those of BILLED.
    """
    found: dict[_Key, list[int]] = {}
    several = _several_prices(sums, prices)
    for (model, adapter, price_id), row in sorted(sums.items(), key=lambda item: (item[0][:2], item[0][2])):
        for place, one in enumerate(METERED):
            price = getattr(prices[price_id], one.price)
            if one.meter is Meter.CACHED and not row[one.quantity]:
                continue
            if one.meter is Meter.ENGINE and not price and not row[one.amount]:
                continue
            total = found.setdefault((model, shown_adapter(adapter), place, price), [0, 0])
            total[0] += row[one.quantity]
            total[1] += row[one.amount]
    currency = next((each.currency for each in prices.values()), "")
    lines = [
        _line(METERED[place], model, adapter, price, quantity, amount, currency if place in several else "")
        for (model, adapter, place, price), (quantity, amount) in sorted(found.items(), key=lambda item: item[0][:3])
    ]
    for meter, name, label in (
        (Meter.FREE, "free_nanos", "free tokens"),
        (Meter.WAIVED, "waived_nanos", "waived beyond budget"),
    ):
        if taken := sum(row[name] for row in sums.values()):
            lines.append(InvoiceLine(description=label, quantity=0, unit="", amount_nanos=-taken, meter=meter))
    if (missing := minimum_nanos - sum(line.amount_nanos for line in lines)) > 0 and minimum_nanos:
        lines.append(
            InvoiceLine(
                description="minimum charge",
                quantity=0,
                unit="",
                amount_nanos=missing,
                meter=Meter.MINIMUM,
                unit_price_nanos=minimum_nanos,
            )
        )
    return lines


def shown_adapter(path: str) -> str:
    """How a customer sees an adapter: without the folders of this machine."""
    return PurePath(path).name


def money(nanos: int) -> str:
    """The shortest exact decimal with at least two places."""
    whole, _, fraction = decimal_text(nanos).partition(".")
    return f"{whole}.{fraction:0<2}"


def _several_prices(sums: Iterable[Group], prices: Mapping[int, PriceList]) -> set[int]:
    """Which meters, by their place, have more than one price."""
    lists = {price_id for *_, price_id in sums}
    return {place for place, one in enumerate(METERED) if len({getattr(prices[n], one.price) for n in lists}) > 1}


def _line(one: Metered, model: str, adapter: str, price: int, quantity: int, amount: int, currency: str) -> InvoiceLine:
    """Its description has the price if `currency` is given."""
    return InvoiceLine(
        description=f"{one.label} at {money(price)} {currency} per {one.per}" if currency else one.label,
        quantity=quantity,
        unit=one.unit,
        amount_nanos=amount,
        meter=one.meter,
        model=model,
        adapter=adapter,
        unit_price_nanos=price,
    )
