"""What all forms of an invoice say: titles, dates, quantities, prices, and sums in cents."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from tenantctl.render import tenant_names
from tenantctl.units import decimals, money
from tenantd.ledger.paperwork import CREDIT_NOTE, coin_nanos, divide_half_even
from tenantd.periods import EPOCH, HOUR_MICROS

HOUR_PLACES: Final = 6
Paper = dict[str, Any]
"""An invoice of one tenant, as the daemon has it."""


class Item(NamedTuple):
    """A line of an invoice. `label` is not of a line but of those below it, for a model and an adapter."""

    label: str
    what: str
    quantity: str
    unit: str
    price: str
    amount: str


def title(paper: Paper) -> str:
    """Invoice INV-000001."""
    if paper["number"] is None:
        return "Invoice (draft)"
    return f"{'Credit note' if paper['kind'] == CREDIT_NOTE else 'Invoice'} {paper['number']}"


def names(papers: list[Paper]) -> list[str]:
    """How to call each tenant; which ones were removed is said."""
    return [
        f"{name} (removed)" if paper.get("is_removed") else name
        for name, paper in zip(tenant_names(papers), papers, strict=True)
    ]


def facts(paper: Paper) -> list[tuple[str, str]]:
    """The lines at the top: numbers, dates, references."""
    zone = ZoneInfo(paper["timezone"])
    first, last = (_day(paper[name] - less, zone) for name, less in (("since_micros", 0), ("until_micros", 1)))
    found = [("Period", f"{first} to {last} ({paper['timezone']})")]
    if paper["number"] is not None:
        found = [("Number", paper["number"]), ("Date", _day(paper["issued_micros"], zone)), *found]
    if paper["credits"]:
        found.append(("Corrects invoice", paper["credits"]))
    customer = paper["customer"]
    found += [("Your reference", customer["reference"])] if customer["reference"] else []
    found.append(("Account", f"{paper['tenant']} (id {paper['tenant_id']})"))
    if not paper["credits"]:
        found.append(("Requests", f"{paper['requests']:,}"))
    return found


def issuer(paper: Paper) -> list[str]:
    """Lines of an address."""
    sender = paper["issuer"]
    tax_id = [f"Tax ID: {sender['tax_id']}"] if sender["tax_id"] else []
    return [line for line in (sender["name"], *sender["address"].split("\n"), *tax_id) if line]


def customer(paper: Paper) -> list[str]:
    """Lines of an address; the tenant's name if there is none."""
    to = paper["customer"]
    tax_id = [f"Tax ID: {to['tax_id']}"] if to["tax_id"] else []
    return [line for line in (to["name"] or paper["tenant"], *to["address"].split("\n"), to["email"], *tax_id) if line]


def items(paper: Paper) -> Iterator[Item]:
    """The lines. If there is more than one model or adapter, each begins with its label. Amounts are exact."""
    lines = paper["lines"]
    places = decimals([paper["total_nanos"], *(line["amount_nanos"] for line in lines)])
    groups = {_label(line) for line in lines if line["unit"]}
    last = ""
    for line in lines:
        label = _label(line) if len(groups) > 1 and line["unit"] else ""
        quantity, unit, price = _quantity(line)
        amount = money(line["amount_nanos"], places)
        yield Item(label if label != last else "", _what(line), quantity, unit, price, amount)
        last = label


def sums(paper: Paper) -> list[tuple[str, str]]:
    """Below the lines: the exact total, what it is in cents, the tax, and what is to pay, which is said last."""
    currency = paper["currency"]
    places = decimals([paper["total_nanos"], *(line["amount_nanos"] for line in paper["lines"])])
    found = [("Total", money(paper["total_nanos"], places))]
    if paper["rounded_nanos"] != paper["total_nanos"]:
        found.append(("Rounded", cents(paper["rounded_nanos"], currency)))
    if paper["tax_percent"] != "0":
        found.append((tax_label(paper), cents(paper["tax_nanos"], currency)))
    is_credit = paper["kind"] == CREDIT_NOTE
    due = cents(-paper["payable_nanos"] if is_credit else paper["payable_nanos"], currency)
    return [*found, (f"{'Amount credited' if is_credit else 'Amount due'} ({currency})", due)]


def tax_label(paper: Paper) -> str:
    """The tax and its rate: VAT 19 %."""
    return f"{paper['tax_name']} {paper['tax_percent']} %".strip()


def cents(nanos: int, currency: str) -> str:
    """A sum that is whole coins: 12.30, or 12 in a currency without cents."""
    places = len(str(10**9 // coin_nanos(currency))) - 1
    text = money(nanos, 9)
    return text[: len(text) - 9 + places] if places else text[: len(text) - 10]


def _what(line: dict[str, Any]) -> str:
    """Without the price, which has a column of its own."""
    return str(line["description"]).partition(" at ")[0] if line["unit"] else str(line["description"])


def _quantity(line: dict[str, Any]) -> tuple[str, str, str]:
    """Quantity, unit and unit price."""
    price = line.get("unit_price_nanos")
    if not line["unit"]:
        return "", "", "" if price is None else f"{money(price)} per month"
    if line["unit"] == "µs":
        parts = divide_half_even(line["quantity"] * 10**HOUR_PLACES, HOUR_MICROS)
        hours = f"{parts // 10**HOUR_PLACES}.{parts % 10**HOUR_PLACES:0{HOUR_PLACES}}"
        return hours, "hours", "" if price is None else f"{money(price)} per hour"
    unit = line["unit"].removesuffix("s") if abs(line["quantity"]) == 1 else line["unit"]
    return f"{line['quantity']}", unit, "" if price is None else f"{money(price)} per million"


def _label(line: dict[str, Any]) -> str:
    model, adapter = line.get("model", ""), line.get("adapter", "")
    return f"{model}, adapter {adapter}" if adapter else model


def _day(micros: int, zone: ZoneInfo) -> str:
    return f"{(EPOCH + timedelta(microseconds=micros)).astimezone(zone):%Y-%m-%d}"
