"""`tenantctl export`: costs and usage for other programs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tenantctl.client import url
from tenantctl.options import Month, TenantFilter, connect, examples
from tenantctl.render import message
from tenantctl.units import plural
from tenantctl.whole_files import write_whole

EXAMPLES = examples(
    "tenantctl export --format focus --month last --out focus.csv",
    "tenantctl export --month 2026-11 --tenant acme | head",
)


class ExportFormat(StrEnum):
    """What programs can read."""

    FOCUS = "focus"


def export(
    ctx: typer.Context,
    format: Annotated[
        ExportFormat, typer.Option("--format", metavar="focus", help="FOCUS 1.4, dataset CostAndUsage, as CSV.")
    ] = ExportFormat.FOCUS,
    month: Month = "this",
    tenant: TenantFilter = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this file instead of standard output.")
    ] = None,
) -> None:
    """Export costs and usage of a month, by day, tenant and meter.

    The format is FOCUS, the FinOps Open Cost and Usage Specification. Billed amounts add up to the invoices.
    """
    with connect(ctx) as client:
        text = client.another(600).get_text(url("exports", format.value, month), tenant=tenant)
    if out is None:
        sys.stdout.write(text)
        return
    write_whole(out, text)
    rows = text.count("\n") - 1
    message(f"wrote {plural(rows, 'row')} to {out}")
