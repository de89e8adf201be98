"""`tenantctl invoice`: a month's bill, exact to a billionth (1e-9) of the currency unit."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from tenantctl.client import url
from tenantctl.options import Json, Month, TenantFilter, connect, examples
from tenantctl.render import heading, message, print_json, print_table, tenant_names
from tenantctl.units import decimals, money

EXAMPLES = examples(
    "tenantctl invoice --month last",
    "tenantctl invoice --month 2026-11 --tenant acme",
    "tenantctl invoice --month last --csv > invoice.csv",
)


def invoice(
    ctx: typer.Context,
    month: Month = "this",
    tenant: TenantFilter = None,
    json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row per invoice line.")] = False,
) -> None:
    """Print the invoice of a month, for all tenants or one."""
    if json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv", param_hint="--csv")
    with connect(ctx) as client:
        bill = client.get(url("invoices", month), tenant=tenant)
    if json:
        print_json(bill)
    elif as_csv:
        _print_csv(bill)
    else:
        _print(bill)


def _print(bill: dict[str, Any]) -> None:
    so_far = " so far" if bill["open"] else ""
    heading(f"Invoice {bill['month']}{so_far} ({bill['timezone']}, {bill['currency']})")
    places = decimals(_amounts(bill))
    for name, tenant in zip(tenant_names(bill["tenants"]), bill["tenants"], strict=True):
        print()
        count = tenant["requests"]
        heading(f"{name}: {count} request{'' if count == 1 else 's'}")
        rows = [
            (line["description"], line["quantity"], line["unit"], money(line["amount_nanos"], places))
            for line in tenant["lines"]
        ]
        total = ("total", "", "", money(tenant["total_nanos"], places))
        print_table(["item", "quantity>", "unit", f"{bill['currency']}>"], [*rows, total])
    if bill["tenants"]:
        print()
    heading(f"Total: {bill['currency']} {money(bill['total_nanos'], places)}")
    if (head := bill.get("audit_head")) is not None:
        print(f"audit head: {head['number']}, {head['hash']}")
    if not bill["tenants"]:
        message(f"nothing to bill for {bill['month']}")


def _amounts(bill: dict[str, Any]) -> Iterator[int]:
    for tenant in bill["tenants"]:
        yield tenant["total_nanos"]
        yield from (line["amount_nanos"] for line in tenant["lines"])


def _print_csv(bill: dict[str, Any]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["month", "tenant", "description", "quantity", "unit", "currency", "amount", "amount_nanos"])
    for tenant in bill["tenants"]:
        for line in tenant["lines"]:
            nanos = line["amount_nanos"]
            item = [line["description"], line["quantity"], line["unit"]]
            writer.writerow([bill["month"], tenant["tenant"], *item, bill["currency"], money(nanos), nanos])
