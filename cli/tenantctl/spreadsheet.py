"""Tables as CSV, for spreadsheets and scripts: exact numbers, and no text that a spreadsheet would run as a formula."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tenantctl.units import money
from tenantd.printable import for_spreadsheet


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a header and rows. Money must be in nano-units, or exact decimals."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([safe(value) for value in row])


def print_records(fields: Sequence[str], records: Iterable[dict[str, Any]], currency: str) -> None:
    """Print these fields of each record. After `cost_nanos`, which is exact, comes the same as a decimal."""
    columns = [*fields, "cost", "currency"]
    print_csv(columns, ([*(one.get(name) for name in fields), money(one["cost_nanos"]), currency] for one in records))


def safe(value: Any) -> Any:
    """The value of a cell: text that would be a formula is quoted."""
    return for_spreadsheet(value) if isinstance(value, str) else value
