"""Invoices as one HTML page to print: everything it needs is in it, and nothing in it is run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from tenantctl.papers.wording import Paper, customer, facts, issuer, items, sums, title

_STYLE: Final = """\
@page { size: A4; margin: 18mm 16mm; }
* { box-sizing: border-box; }
body { font: 10.5pt/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: #1a1a1a;
  max-width: 178mm; margin: 0 auto; padding: 8mm 0; overflow-wrap: anywhere; }
article + article { break-before: page; margin-top: 20mm; }
header { display: flex; justify-content: space-between; gap: 10mm; margin-bottom: 9mm; }
h1 { font-size: 19pt; line-height: 1.2; margin: 0; }
.from { text-align: right; max-width: 80mm; }
.from p:first-child, .to p:nth-child(2) { font-weight: 600; }
p { margin: 0; }
h2 { font-size: 8.5pt; font-weight: 600; color: #666; margin: 0 0 1mm; text-transform: uppercase;
  letter-spacing: .06em; }
.head { display: flex; justify-content: space-between; gap: 10mm; margin-bottom: 9mm; }
.to { max-width: 85mm; }
dl { display: grid; grid-template-columns: auto auto; gap: .6mm 5mm; margin: 0; align-content: start; }
dt { color: #666; }
dd { margin: 0; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { font-size: 8.5pt; font-weight: 600; color: #666; text-align: left; border-bottom: .4mm solid #1a1a1a; }
th, td { padding: 1.4mm 2mm 1.4mm 0; vertical-align: top; }
tbody td { border-bottom: .2mm solid #ddd; }
tbody th { font-size: 9.5pt; color: #1a1a1a; border: 0; padding-top: 4mm; }
.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
th:last-child, td:last-child { padding-right: 0; }
tr { break-inside: avoid; }
tfoot td { padding-top: 1.2mm; padding-bottom: 1.2mm; }
tfoot tr:first-child td { padding-top: 3mm; }
tfoot tr:last-child td { font-size: 13pt; font-weight: 700; border-top: .4mm solid #1a1a1a; padding-top: 2.5mm; }
.terms { margin-top: 10mm; white-space: pre-line; }
.draft { margin-bottom: 6mm; padding: 2mm 3mm; border: .3mm solid #b35c00; color: #8a4700; }
"""
DRAFT: Final = "This is a draft. It has no number, and its amounts can still change."


def as_html(papers: Sequence[Paper]) -> str:
    """A document with a page, or more, for each invoice."""
    name = title(papers[0]) if len(papers) == 1 else "Invoices"
    articles = "\n".join(_article(paper) for paper in papers)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(name)}</title>
<style>
{_STYLE}</style>
</head>
<body>
{articles}
</body>
</html>
"""


def _article(paper: Paper) -> str:
    currency = _text(paper["currency"])
    rows = "\n".join(_rows(paper))
    foot = "\n".join(
        f'<tr><td colspan="4">{_text(name)}</td><td class="n">{_text(n)}</td></tr>' for name, n in sums(paper)
    )
    shown = "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts(paper))
    terms = f'<p class="terms">{_text(paper["terms"])}</p>' if paper["terms"] else ""
    draft = f'<p class="draft">{DRAFT}</p>' if paper["number"] is None else ""
    return f"""<article>
<header><h1>{_text(title(paper))}</h1><div class="from">{_lines(issuer(paper))}</div></header>
{draft}
<div class="head"><div class="to"><h2>To</h2>{_lines(customer(paper))}</div><dl>
{shown}
</dl></div>
<table>
<thead><tr><th>Item</th><th class="n">Quantity</th><th>Unit</th><th class="n">Unit price</th>
<th class="n">Amount ({currency})</th></tr></thead>
<tbody>
{rows}
</tbody>
<tfoot>
{foot}
</tfoot>
</table>
{terms}
</article>"""


def _rows(paper: Paper) -> Iterable[str]:
    for item in items(paper):
        if item.label:
            yield f'<tr><th colspan="5">{_text(item.label)}</th></tr>'
        quantity, price, amount = (
            f'<td class="n">{_text(cell)}</td>' for cell in (item.quantity, item.price, item.amount)
        )
        yield f"<tr><td>{_text(item.what)}</td>{quantity}<td>{_text(item.unit)}</td>{price}{amount}</tr>"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"<p>{_text(line)}</p>" for line in lines)


def _text(text: str) -> str:
    return escape(text, quote=True)
