"""`tenantctl invoice`: a month's bills, exact to a billionth (1e-9) of the currency unit."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tenantctl.client import segment, url
from tenantctl.options import Json, Month, MonthGroup, TenantFilter, connect, examples
from tenantctl.own_view import own_view
from tenantctl.render import message, print_json, print_table, short_each
from tenantctl.units import decimals, moment, money, plural
from tenantctl.whole_files import safe_name, write_whole

app = typer.Typer(
    name="invoice",
    cls=MonthGroup,
    invoke_without_command=True,
    help="Print the invoices of a month, for all tenants or one. Tenants see their own.",
    epilog=examples(
        "tenantctl invoice --month last",
        "tenantctl invoice --month 2026-11 --tenant acme --format html > acme.html",
        "tenantctl invoice --month last --finalize --format html --out invoices/",
        "tenantctl invoice credit INV-000007 --reason 'outage on 3 November' --amount 12.50",
        "tenantctl invoice verify",
    ),
)


class Format(StrEnum):
    """How to write an invoice."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    HTML = "html"
    MD = "md"
    PDF = "pdf"


FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        metavar="table|json|csv|html|md|pdf",
        help="Output format; html is a page to print, pdf needs tenantd's extra `pdf`.",
    ),
]
Number = Annotated[
    str, typer.Argument(metavar="NUMBER", help="Number, as shown by `invoice list`, or without its prefix and zeros.")
]
OneMonth = Annotated[
    str | None, typer.Option("--month", metavar="YYYY-MM|this|last", help="Show only those of this month.")
]


@app.callback()
def invoice(
    ctx: typer.Context,
    month: Month = "this",
    tenant: TenantFilter = None,
    format: FormatOption = Format.TABLE,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a file for each tenant to this folder.")
    ] = None,
    finalize: Annotated[
        bool, typer.Option("--finalize", help="Finalise the invoices: they get numbers and never change.")
    ] = False,
    json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Same as --format csv.")] = False,
) -> None:
    if ctx.invoked_subcommand is not None:
        if given := _given(ctx):
            raise typer.BadParameter(f"put {', '.join(given)} after {ctx.invoked_subcommand}, if it accepts that")
        return
    chosen = _format(format, json=json, as_csv=as_csv)
    if out is not None and chosen is Format.TABLE:
        raise typer.BadParameter("choose --format json, csv, html, md or pdf for files", param_hint="--out")
    if out is not None and out.suffix.lower() == f".{chosen.value}" and not out.is_dir():
        said = f"names the folder for the files of all tenants; for one file, write: --format {chosen.value} > {out}"
        raise typer.BadParameter(said, param_hint="--out")
    _check(chosen, out)
    with connect(ctx) as client:
        if not finalize and (own := own_view(client, tenant)) is not None:
            bill = _own_bill(own.get(f"/v1/invoices/{segment(month)}"))
        elif finalize:
            bill = client.post(url("invoices", month, "finalize"), {"tenant": tenant})
        else:
            bill = client.get(url("invoices", month), tenant=tenant)
    if out is not None:
        try:
            _write_files(bill, chosen, out)
        except OSError:
            if finalize and bill["tenants"]:
                message("the invoices are finalised, but not all files were written; run this command again")
            raise
    else:
        _print(bill, chosen)


@app.command("list", epilog=examples("tenantctl invoice list", "tenantctl invoice list --tenant acme --json"))
def list_(ctx: typer.Context, tenant: TenantFilter = None, month: OneMonth = None, json: Json = False) -> None:
    """List finalised invoices and credit notes, newest first."""
    with connect(ctx) as client:
        answer = client.get(url("invoices"), tenant=tenant, month=month)
    if json:
        print_json(answer)
        return
    rows = answer["invoices"]
    places = decimals(row["total_nanos"] for row in rows)
    columns = ["number", "month", "tenant", "issued", "total>", "due>", "currency", "credits"]
    names = short_each([row["tenant"] for row in rows])
    cells = [_row(name, row, places) for name, row in zip(names, rows, strict=True)]
    print_table(columns, cells, ("currency", "issued", "due", "credits"))
    if not rows:
        message("no invoices have been finalised; to finalise last month's: tenantctl invoice --month last --finalize")


@app.command(epilog=examples("tenantctl invoice show INV-000007", "tenantctl invoice show 7 --format html > 7.html"))
def show(ctx: typer.Context, number: Number, format: FormatOption = Format.TABLE, json: Json = False) -> None:
    """Show a finalised invoice or a credit note, as it was issued."""
    chosen = _format(format, json=json, as_csv=False)
    _check(chosen)
    with connect(ctx) as client:
        paper = client.get(url("invoices", "issued", number))["invoice"]
    if chosen is Format.TABLE:
        from tenantctl.papers.listing import print_paper

        print_paper(paper)
    elif chosen is Format.JSON:
        print_json(paper)
    else:
        _write([paper], chosen, paper)


@app.command(
    epilog=examples(
        "tenantctl invoice credit INV-000007 --reason 'sent to the wrong customer'",
        "tenantctl invoice credit INV-000007 --reason 'outage on 3 November' --amount 12.50",
    )
)
def credit(
    ctx: typer.Context,
    number: Number,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason, printed on the credit note.")],
    amount: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Amount before tax. Default: all that remains of the invoice.")
    ] = None,
    json: Json = False,
) -> None:
    """Correct a finalised invoice with a credit note.

    The invoice stays as it is. Its credit notes cannot add up to more than its total.
    """
    with connect(ctx) as client:
        note = client.post(url("invoices", "issued", number, "credit"), {"reason": reason, "amount": amount})["invoice"]
    if json:
        print_json(note)
        return
    print(note["number"])
    credited = f"{note['currency']} {money(-note['total_nanos'])}"
    message(f"credit note {note['number']}: {credited} of invoice {note['credits']}")


@app.command(epilog=examples("tenantctl invoice verify", "tenantctl invoice verify INV-000007 --json"))
def verify(
    ctx: typer.Context,
    number: Annotated[str | None, typer.Argument(metavar="NUMBER", help="Invoice to check. Default: all.")] = None,
    json: Json = False,
) -> None:
    """Recompute finalised invoices from the ledger.

    Compares each invoice with its hourly sums and its requests, and its hash with the audit trail. Also looks for
    missing numbers. Exits with 1 if something is wrong.
    """
    with connect(ctx) as client:
        proof = client.another(600).get(url("invoices", "verification"), number=number)
    if json:
        print_json(proof)
    else:
        for finding in proof["findings"]:
            print(f"{finding['number'] or 'invoices'}: {finding['problem']}")
        for count, why in (
            (proof["without_rows"], "compared only with hourly sums, because their requests were pruned"),
            (proof["without_entry"], "not compared with the audit trail, which was off or has been pruned"),
        ):
            if count:
                message(f"{count} {why}")
        found = len(proof["findings"])
        message(f"checked {proof['checked']}: " + (plural(found, "problem") if found else "all intact"))
    if proof["findings"]:
        raise typer.Exit(1)


# -- formats


def _given(ctx: typer.Context) -> list[str]:
    """The options that were passed before a subcommand."""
    sources = {parameter.opts[0]: ctx.get_parameter_source(parameter.name or "") for parameter in ctx.command.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _own_bill(answer: dict[str, Any]) -> dict[str, Any]:
    """What a tenant is told of its invoice, as administrators are told of all."""
    paper = answer.pop("invoice")
    return {**answer, "tenants": [paper] if paper else [], "total_nanos": paper["total_nanos"] if paper else 0}


def _format(format: Format, *, json: bool, as_csv: bool) -> Format:
    """Raises BadParameter for several."""
    chosen = {each for each, wanted in ((Format.JSON, json), (Format.CSV, as_csv)) if wanted}
    chosen |= set() if format is Format.TABLE else {format}
    if len(chosen) > 1:
        raise typer.BadParameter(f"choose one of {' and '.join(sorted(chosen))}", param_hint="--format")
    return chosen.pop() if chosen else Format.TABLE


def _print(bill: dict[str, Any], format: Format) -> None:
    if format is Format.JSON:
        print_json(bill)
    elif format is Format.TABLE:
        from tenantctl.papers.listing import print_month

        print_month(bill)
    else:
        _write(bill["tenants"], format, bill)
        if not bill["tenants"]:
            message(f"nothing to bill for {bill['month']}")


def _check(format: Format, out: Path | None = None) -> None:
    """Before anything is asked of the daemon. Raises InvalidRequest if the format cannot be written, BadParameter if it
    is no text for a terminal."""
    if format is Format.PDF:
        from tenantctl.papers.pdf import need_pdf

        need_pdf()
        if out is None and sys.stdout.isatty():
            raise typer.BadParameter(
                "cannot print a PDF on a terminal; write it to a file: > invoice.pdf", param_hint="--format"
            )


def _write(papers: Sequence[dict[str, Any]], format: Format, bill: dict[str, Any]) -> None:
    """All of them to standard output. Nothing is written as PDF if there are none."""
    written = _written(papers, format, bill)
    if isinstance(written, str):
        sys.stdout.write(written)
    elif papers:
        sys.stdout.buffer.write(written)


def _written(papers: Sequence[dict[str, Any]], format: Format, bill: dict[str, Any]) -> str | bytes:
    """One document with all of them."""
    if format is Format.CSV:
        from tenantctl.papers.sheet import as_csv

        return as_csv(papers, bill["month"], bill["currency"])
    if format is Format.HTML:
        from tenantctl.papers.page import as_html

        return as_html(papers)
    if format is Format.MD:
        from tenantctl.papers.markdown import as_markdown

        return as_markdown(papers)
    if format is Format.PDF:
        from tenantctl.papers.pdf import UNKNOWN, as_pdf

        document, lacking = as_pdf(papers)
        if lacking:
            message(f"the PDF shows {UNKNOWN!r} for characters its font lacks ({lacking}); --format html shows all")
        return document
    # exactly the bytes whose hash is in the audit trail, once it is finalised
    return json_format.dumps(papers[0], ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _write_files(bill: dict[str, Any], format: Format, folder: Path) -> None:
    """Prints the path of each file."""
    papers = bill["tenants"]
    folder.mkdir(parents=True, exist_ok=True)
    names = [paper["tenant"] for paper in papers]
    for paper in papers:
        same = "" if names.count(paper["tenant"]) == 1 else f"-id{paper['tenant_id']}"
        parts = (bill["month"], f"{paper['tenant']}{same}", paper["number"] or "draft")
        path = folder / f"{'-'.join(map(safe_name, parts))}.{format.value}"
        write_whole(path, _written([paper], format, bill))
        print(path)
    if not papers:
        message(f"nothing to bill for {bill['month']}")


def _row(tenant: str, row: dict[str, Any], places: int) -> list[object]:
    return [
        row["number"],
        row["month"],
        tenant,
        moment(row["issued_micros"])[:10],
        money(row["total_nanos"], places),
        money(row["payable_nanos"]),
        row["currency"],
        f"of {row['credits']}" if row["credits"] else money(row["credited_nanos"]) if row["credited_nanos"] else "",
    ]
