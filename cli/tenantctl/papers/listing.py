"""Invoices on a terminal."""

from __future__ import annotations

from typing import Any

from tenantctl.papers.wording import Paper, cents, items, names
from tenantctl.papers.wording import title as title_of
from tenantctl.render import heading, message, print_table
from tenantctl.units import decimals, money

SPARE = ("unit", "unit price")
"""Columns that are left out first on a narrow terminal."""


def print_month(bill: dict[str, Any]) -> None:
    """All invoices of a month, with exact amounts."""
    so_far = " so far" if bill["open"] else ""
    heading(f"Invoice {bill['month']}{so_far} ({bill['timezone']}, {bill['currency']})")
    papers = bill["tenants"]
    for name, paper in zip(names(papers), papers, strict=True):
        print()
        count = paper["requests"]
        number = f", invoice {paper['number']}" if paper.get("number") else ""
        heading(f"{name}: {count} request{'' if count == 1 else 's'}{number}")
        _print_lines(paper, bill["currency"])
    if papers:
        print()
    places = decimals(nanos for paper in papers for nanos in _amounts(paper))
    heading(f"Total: {bill['currency']} {money(bill['total_nanos'], places)}")
    if (head := bill.get("audit_head")) is not None:
        print(f"audit head: {head['number']}, {head['hash']}")
    if not papers:
        message(f"nothing to bill for {bill['month']}")


def print_paper(paper: Paper) -> None:
    """One that was finalised."""
    heading(f"{title_of(paper)}: {paper['tenant']}, {paper['month']} ({paper['timezone']}, {paper['currency']})")
    if paper["credits"]:
        print(f"corrects invoice {paper['credits']}")
    print()
    _print_lines(paper, paper["currency"])
    print()
    due, sign = ("amount credited", -1) if paper["credits"] else ("amount due", 1)
    with_tax = "" if paper["tax_percent"] == "0" else f", with {paper['tax_name']} of {paper['tax_percent']} %"
    heading(f"{due}: {paper['currency']} {cents(sign * paper['payable_nanos'], paper['currency'])}{with_tax}")


def _print_lines(paper: Paper, currency: str) -> None:
    rows: list[tuple[str, ...]] = []
    for item in items(paper):
        rows += [(f"[{part}]", "", "", "", "") for part in item.label.split(", ") if part]
        rows.append((item.what, item.quantity, item.unit, item.price, item.amount))
    places = decimals(_amounts(paper))
    rows.append(("total", "", "", "", money(paper["total_nanos"], places)))
    print_table(["item", "quantity>", "unit", "unit price>", f"{currency}>"], rows, SPARE)


def _amounts(paper: Paper) -> list[int]:
    return [paper["total_nanos"], *(line["amount_nanos"] for line in paper["lines"])]
