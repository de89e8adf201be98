"""Costs and usage as FinOps tools read them: rows of FOCUS 1.4's dataset CostAndUsage.

One row for each day in the billing time zone, tenant and meter; more if a tenant used several keys, models, adapters or
price lists that day. What is billed adds up to the invoices of the month, to the billionth of the currency's unit; a
tax is a row of its own. Credit notes are corrections in the month in which they are issued.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from itertools import pairwise
from sqlite3 import Connection
from typing import Final
from zoneinfo import ZoneInfo

from tenantd.config import NANOS
from tenantd.ledger.invoice_lines import BILLED, METERED, Meter, Metered, shown_adapter
from tenantd.ledger.invoices import Month, invoice
from tenantd.ledger.issued import credit_notes
from tenantd.ledger.paperwork import Paperwork, TenantInvoice, divide_half_even
from tenantd.ledger.prices import HOUR_MICROS, MILLION, all_prices, prices_at
from tenantd.ledger.records import PriceList
from tenantd.ledger.sums import sums
from tenantd.periods import EPOCH, days
from tenantd.printable import for_spreadsheet

COLUMNS: Final = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ContractedCost",
    "EffectiveCost",
    "HostProviderName",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ServiceCategory",
    "ServiceName",
    "ServiceProviderName",
    "ConsumedQuantity",
    "ConsumedUnit",
    "InvoiceId",
    "ListUnitPrice",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_KeyId",
    "x_Model",
    "x_RequestCount",
)
SERVICE_CATEGORY: Final = "AI and Machine Learning"
SERVICE_NAME: Final = "Text Generation"
OWN_NAME: Final = "tenantd"
"""Who provides, hosts and bills if no issuer is configured."""
METERS: Final = {
    Meter.INPUT: "Input Tokens",
    Meter.CACHED: "Cached Tokens",
    Meter.OUTPUT: "Output Tokens",
    Meter.ENGINE: "Engine Time",
}
PLACES: Final = 15
"""Decimal places of quantities and list costs: enough for tokens to be exact; hours are rounded to them."""
_BY: Final = ("tenant_id", "key_id", "model", "adapter", "price_id")
Row = dict[str, str]


def focus_csv(conn: Connection, month: Month, tenant_id: int | None = None, papers: Paperwork | None = None) -> str:
    """The rows of a month as CSV with a header. Raises AmountTooLarge."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in focus_rows(conn, month, tenant_id, papers or Paperwork()):
        writer.writerow({name: for_spreadsheet(value) for name, value in row.items()})
    return text.getvalue()


def focus_rows(conn: Connection, month: Month, tenant_id: int | None, papers: Paperwork) -> Iterator[Row]:
    """Days first, oldest first; then what belongs to whole months."""
    bills = {part.tenant_id: part for part in invoice(conn, month, tenant_id, papers).tenants}
    prices = all_prices(conn)
    for since_micros, until_micros in _portions(bills.values(), ZoneInfo(month.timezone)):
        general = prices_at(conn, until_micros - 1)
        found = sums(conn, since_micros, until_micros, _BY, tenant_id=tenant_id, invoiced=True, only=BILLED)
        for (number, key_id, model, adapter, price_id), row in sorted(found.items()):
            bill = bills.get(number)
            if bill is None or not bill.since_micros <= since_micros < bill.until_micros:
                continue
            common = {
                **_about(bill, bill.since_micros, bill.until_micros),
                "ChargePeriodStart": _time(since_micros),
                "ChargePeriodEnd": _time(until_micros),
                "x_KeyId": key_id,
                "x_Model": model,
                "x_RequestCount": str(row["requests"]),
                "Tags": _tags(adapter),
            }
            agreed = prices[price_id]
            listed = agreed if agreed.tenant_id is None else general
            yield from ({**common, **each} for each in _charges(row, model, adapter, agreed, listed))
    for bill in bills.values():
        yield from _of_month(bill)
    for note in credit_notes(conn, month.since_micros, month.until_micros, tenant_id):
        yield from _correction(note, month)


def _portions(bills: Collection[TenantInvoice], timezone: ZoneInfo) -> Iterator[tuple[int, int]]:
    """The days of all bills, cut where one begins or ends within a day, as after a change of the time zone."""
    edges = {edge for bill in bills for edge in (bill.since_micros, bill.until_micros)}
    for day in days(min(edges, default=0), max(edges, default=0), timezone):
        inside = {edge for edge in edges if day.since_micros < edge < day.until_micros}
        yield from pairwise(sorted({day.since_micros, *inside, day.until_micros}))


def _charges(row: Mapping[str, int], model: str, adapter: str, agreed: PriceList, listed: PriceList) -> Iterator[Row]:
    """What was used on a day, and what was taken off. `listed` are the prices for everybody, `agreed` the tenant's."""
    for one in METERED:
        if row[one.quantity] or row[one.amount]:
            yield _usage(one, row, model, adapter, agreed, listed)
    for name, label in (("free_nanos", "Free quota"), ("waived_nanos", "Waived beyond a budget")):
        if row[name]:
            yield {**_same(-row[name]), "ChargeCategory": "Credit", "ChargeDescription": label}


def _usage(one: Metered, row: Mapping[str, int], model: str, adapter: str, agreed: PriceList, listed: PriceList) -> Row:
    is_time, quantity = one.meter is Meter.ENGINE, row[one.quantity]
    per = HOUR_MICROS if is_time else MILLION
    list_price, own_price = (getattr(each, one.price) for each in (listed, agreed))
    with_adapter = f"{model}+{shown_adapter(adapter)}" if adapter else model
    sku = f"{with_adapter}/{one.meter.replace('_', '-')}"
    billed = _exact(row[one.amount], NANOS)
    return {
        "BilledCost": billed,
        "EffectiveCost": billed,
        "ListCost": _exact(list_price * quantity, NANOS * per),
        "ContractedCost": _exact(own_price * quantity, NANOS * per),
        "ListUnitPrice": _exact(list_price, NANOS),
        "PricingQuantity": _exact(quantity, per),
        "PricingUnit": "Hours" if is_time else "1000000 Tokens",
        "ConsumedQuantity": _exact(quantity, MILLION if is_time else 1),
        "ConsumedUnit": "Seconds" if is_time else "Tokens",
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{METERS[one.meter]}, model {with_adapter}",
        "SkuId": sku,
        "SkuPriceId": sku,
        "SkuMeter": METERS[one.meter],
    }


def _of_month(bill: TenantInvoice) -> Iterator[Row]:
    """The minimum and the tax of one tenant."""
    period = {"ChargePeriodStart": _time(bill.since_micros), "ChargePeriodEnd": _time(bill.until_micros)}
    about = _about(bill, bill.since_micros, bill.until_micros)
    for line in bill.lines:
        if line.meter == Meter.MINIMUM:
            text = {"ChargeCategory": "Adjustment", "ChargeDescription": line.description.capitalize()}
            yield {**about, **period, **_same(line.amount_nanos), **text}
    if bill.tax_nanos:
        text = {"ChargeCategory": "Tax", "ChargeDescription": f"{bill.tax_name} {bill.tax_percent}%".strip()}
        yield {**about, **period, **_same(bill.tax_nanos), **text}


def _correction(note: TenantInvoice, month: Month) -> Iterator[Row]:
    period = {"ChargePeriodStart": _time(note.since_micros), "ChargePeriodEnd": _time(note.until_micros)}
    common = {**_about(note, month.since_micros, month.until_micros), **period, "ChargeClass": "Correction"}
    text = f"Credit note on {note.credits}: {note.reason}"
    yield {**common, **_same(note.total_nanos), "ChargeCategory": "Credit", "ChargeDescription": text}
    if note.tax_nanos:
        text = f"{note.tax_name} {note.tax_percent}% on {note.number}".strip()
        yield {**common, **_same(note.tax_nanos), "ChargeCategory": "Tax", "ChargeDescription": text}


def _about(bill: TenantInvoice, since_micros: int, until_micros: int) -> Row:
    """What all rows of an invoice have."""
    issuer = bill.issuer.name or OWN_NAME
    return {
        **dict.fromkeys(COLUMNS, ""),
        "BillingAccountId": str(bill.tenant_id),
        "BillingAccountName": bill.customer.name or bill.tenant,
        "BillingCurrency": bill.currency,
        "BillingPeriodStart": _time(since_micros),
        "BillingPeriodEnd": _time(until_micros),
        "HostProviderName": issuer,
        "InvoiceIssuerName": issuer,
        "ServiceProviderName": issuer,
        "ServiceCategory": SERVICE_CATEGORY,
        "ServiceName": SERVICE_NAME,
        "InvoiceId": bill.number or "",
        "SubAccountId": str(bill.tenant_id),
        "SubAccountName": bill.tenant,
        "Tags": "{}",
    }


def _same(nanos: int) -> Row:
    """A charge without a price: all its costs are the same."""
    cost = _exact(nanos, NANOS)
    return dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), cost)


def _tags(adapter: str) -> str:
    tags = {f"{OWN_NAME}/adapter": shown_adapter(adapter)} if adapter else {}
    return json.dumps(tags, ensure_ascii=False)


def _exact(numerator: int, denominator: int) -> str:
    """The shortest decimal, rounded half to even after PLACES."""
    digits = divide_half_even(numerator * 10**PLACES, denominator)
    whole, fraction = divmod(abs(digits), 10**PLACES)
    text = f"{whole}.{fraction:0{PLACES}}".rstrip("0").rstrip(".")
    return f"-{text}" if digits < 0 else text


def _time(micros: int) -> str:
    """In UTC, with fractions only if there are any."""
    moment = EPOCH + timedelta(microseconds=micros)
    return moment.isoformat(timespec="microseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")
