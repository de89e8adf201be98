"""Invoices on a terminal."""

from __future__ import annotations

from typing import Any

from tenantctl.papers.wording import Paper, cents, items, names, sums, tax_label
from tenantctl.papers.wording import title as title_of
from tenantctl.render import heading, message, narrow_hint, note, print_table, short_names
from tenantctl.units import decimals, money, plural

SPARE = ("unit", "quantity")
"""Columns that are left out first on a narrow terminal."""


def print_month(bill: dict[str, Any]) -> None:
    """All invoices of a month, with exact amounts."""
    so_far = " so far" if bill["open"] else ""
    heading(f"Invoice {bill['month']}{so_far} ({bill['timezone']}, {bill['currency']})")
    papers = bill["tenants"]
    is_cut = False
    for name, paper in zip(names(papers), papers, strict=True):
        print()
        count = paper["requests"]
        number = f", invoice {paper['number']}" if paper.get("number") else ""
        heading(f"{name}: {plural(count, 'request')}{number}")
        is_cut |= _print_lines(paper, bill["currency"])
    if is_cut:
        narrow_hint("--json", "--csv")
    if papers:
        print()
    places = decimals(nanos for paper in papers for nanos in _amounts(paper))
    before_tax = " before tax" if any(paper["tax_nanos"] for paper in papers) else ""
    heading(f"Total: {bill['currency']} {money(bill['total_nanos'], places)}{before_tax}")
    if len(papers) > 1:
        due_nanos = sum(paper["payable_nanos"] for paper in papers)
        heading(f"Amount due: {bill['currency']} {cents(due_nanos, bill['currency'])}")
    if (head := bill.get("audit_head")) is not None:
        note(f"audit head: {head['number']}, {head['hash']}")
    if not papers:
        message(f"nothing to bill for {bill['month']}")


def print_paper(paper: Paper) -> None:
    """One that was finalised."""
    heading(f"{title_of(paper)}: {paper['tenant']}, {paper['month']} ({paper['timezone']}, {paper['currency']})")
    if paper["credits"]:
        print(f"corrects invoice {paper['credits']}")
    print()
    if _print_lines(paper, paper["currency"]):
        narrow_hint("--json")


def _print_lines(paper: Paper, currency: str) -> bool:
    """The lines and what they add up to. Returns whether columns were left out."""
    rows: list[tuple[str, ...]] = []
    lines = list(items(paper))
    parts = sorted({part for item in lines for part in item.label.split(", ") if part})
    shown = dict(zip(parts, short_names(parts), strict=True))
    for item in lines:
        rows += [(f"[{shown[part]}]", "", "", "", "") for part in item.label.split(", ") if part]
        rows.append((item.what, item.quantity, item.unit, item.price, item.amount))
    for name, amount in sums(paper):
        what = name.removesuffix(f" ({currency})")
        rows.append((name if name == tax_label(paper) else what.lower(), "", "", "", amount))
    return print_table(["item", "quantity>", "unit", "unit price>", f"{currency}>"], rows, SPARE, hint=False)


def _amounts(paper: Paper) -> list[int]:
    return [paper["total_nanos"], *(line["amount_nanos"] for line in paper["lines"])]
