"""The prices in `[billing]`: read once, for a ledger without a price list. Later differences are only named."""

from __future__ import annotations

import logging
from sqlite3 import Connection
from typing import Final

from tenantd.config import BillingConfig, price_nanos
from tenantd.ledger.prices import decimal_text, insert_prices, latest_prices, prices_at
from tenantd.ledger.records import PriceList

log = logging.getLogger(__name__)

SETTINGS: Final = {
    "input_price_per_million": ("input_nanos_per_million", "--input"),
    "output_price_per_million": ("output_nanos_per_million", "--output"),
    "engine_hour_price": ("engine_hour_nanos", "--engine-hour"),
}
"""The field of a price list, and the option of `tenantctl price set`, for each price in the configuration."""


def list_of(billing: BillingConfig, effective_micros: int) -> PriceList:
    """The list for all tenants that the configuration describes."""
    amounts = {field: price_nanos(getattr(billing, name)) for name, (field, _) in SETTINGS.items()}
    return PriceList(
        id=0,
        currency=billing.currency,
        effective_micros=effective_micros,
        is_configured=1,
        set_micros=effective_micros,
        **amounts,
    )


def add_prices(conn: Connection, billing: BillingConfig, now_micros: int) -> None:
    """Begin with the configured prices, if the ledger has none; otherwise log what differs from those in force."""
    if latest_prices(conn) is None:
        insert_prices(conn, list_of(billing, now_micros))
    else:
        name_differences(conn, billing, now_micros)


def name_differences(conn: Connection, billing: BillingConfig, now_micros: int) -> None:
    """Log which prices of the file are not those in force, and the command that would change that.

    A setting that is not in the file differs from nothing. It is a warning only if the file says what it did not say
    when it was read, because otherwise the prices were changed since.
    """
    wanted, in_force = list_of(billing, now_micros), prices_at(conn, now_micros)
    differing = [
        name
        for name, (field, _) in SETTINGS.items()
        if name in billing.model_fields_set and getattr(wanted, field) != getattr(in_force, field)
    ]
    if not differing:
        return
    read = conn.execute("SELECT id FROM prices WHERE is_configured AND tenant_id IS NULL ORDER BY id DESC").fetchone()
    was = None if read is None else _amounts(conn, read[0])
    is_edited = was is None or any(was[SETTINGS[name][0]] != getattr(wanted, SETTINGS[name][0]) for name in differing)
    options = " ".join(f"{SETTINGS[name][1]} {decimal_text(getattr(wanted, SETTINGS[name][0]))}" for name in differing)
    log.log(
        logging.WARNING if is_edited else logging.INFO,
        "[billing] no longer sets prices, because the ledger has a price list: %s. To use the prices of the file "
        "from now on: tenantctl price set %s",
        ", ".join(
            f"{name} = {decimal_text(getattr(wanted, field))}, but {decimal_text(getattr(in_force, field))} is in force"
            for name in differing
            for field in SETTINGS[name][:1]
        ),
        options,
    )


def _amounts(conn: Connection, price_id: int) -> dict[str, int]:
    fields = [field for field, _ in SETTINGS.values()]
    row = conn.execute(f"SELECT {', '.join(fields)} FROM prices WHERE id = ?", (price_id,)).fetchone()
    return dict(zip(fields, row, strict=True))


def has_money(conn: Connection) -> bool:
    """Whether the ledger has amounts in its currency that somebody was or will be billed."""
    return any(
        conn.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None
        for table in ("requests WHERE price_id IS NOT NULL", "hours", "invoices")
    )


def change_currency(conn: Connection, currency: str) -> None:
    """Of all price lists, in a ledger without money: the numbers stay."""
    conn.execute("UPDATE prices SET currency = ?", (currency,))
    log.warning("nothing was billed yet, so the price lists are now in %s, with the same numbers", currency)
