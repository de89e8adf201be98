"""Invoices as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

from tenantctl.papers.wording import Paper, customer, facts, issuer, items, sums, title

_SPECIAL: Final = re.compile(r"([\\`*_\[\]#!|~])")
_BEGINNING: Final = re.compile(r"^([-+=]|[0-9]+[.)])")
"""What would make a line that begins with it something else than text."""


def as_markdown(papers: Sequence[Paper]) -> str:
    """A section for each invoice, with a line between two."""
    return "\n---\n\n".join("\n".join(_section(paper)) + "\n" for paper in papers)


def _section(paper: Paper) -> Iterator[str]:
    yield f"# {_text(title(paper))}\n"
    if lines := issuer(paper):
        yield f"From: {_joined(lines)}\n"
    yield f"To: {_joined(customer(paper))}\n"
    yield from (f"- {name}: {_text(value)}" for name, value in facts(paper))
    yield ""
    yield f"| Item | Quantity | Unit | Unit price | Amount ({_text(paper['currency'])}) |"
    yield "|---|---:|---|---:|---:|"
    for item in items(paper):
        if item.label:
            yield f"| **{_text(item.label)}** | | | | |"
        yield _row([item.what, item.quantity, item.unit, item.price, item.amount])
    for name, amount in sums(paper):
        yield f"| **{_text(name)}** | | | | **{amount}** |"
    if paper["terms"]:
        yield f"\n{_joined(paper['terms'].splitlines())}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_text(cell) if not _is_number(cell) else cell for cell in cells)} |"


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?[0-9.,]+", cell) is not None


def _joined(lines: Iterable[str]) -> str:
    return "  \n".join(_BEGINNING.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", _text(line)) for line in lines)


def _text(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", escape(text, quote=False))
