"""Invoices as CSV: one row for each line, with exact amounts. A spreadsheet runs nothing in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tenantctl.papers.wording import Paper, tax_label
from tenantctl.units import money
from tenantd.printable import for_spreadsheet

COLUMNS: Final = (
    *("month", "tenant", "description", "quantity", "unit", "currency", "amount", "amount_nanos"),
    *("tenant_id", "number", "kind", "meter", "model", "adapter", "unit_price", "hours"),
)
HOUR_MICROS: Final = 3_600_000_000


def as_csv(papers: Iterable[Paper], month: str, currency: str) -> str:
    """A header and the lines, then what rounding and tax add, so that the amounts add up to what is due.

    `unit_price` is of a million tokens, of an hour, or of a month; `hours` only of engine time.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for paper in papers:
        for line in (*paper["lines"], *_additions(paper)):
            nanos, price = line["amount_nanos"], line.get("unit_price_nanos")
            row = [
                *(month, paper["tenant"], line["description"], line["quantity"], line["unit"], currency),
                *(money(nanos), nanos, paper["tenant_id"], paper.get("number") or "", paper.get("kind", "")),
                *(line.get("meter", ""), line.get("model", ""), line.get("adapter", "")),
                "" if price is None else money(price),
                f"{line['quantity'] / HOUR_MICROS:.9f}" if line["unit"] == "µs" else "",
            ]
            writer.writerow([for_spreadsheet(str(cell)) for cell in row])
    return text.getvalue()


def _additions(paper: Paper) -> Iterator[dict[str, Any]]:
    """Lines for rounding to cents, and for tax."""
    rounding_nanos = paper["rounded_nanos"] - paper["total_nanos"]
    for meter, name, nanos in (("rounding", "rounding", rounding_nanos), ("tax", tax_label(paper), paper["tax_nanos"])):
        if nanos:
            yield {"description": name, "quantity": 0, "unit": "", "amount_nanos": nanos, "meter": meter}
