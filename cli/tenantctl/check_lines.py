"""What a check of the ledger has looked at, in words: a line for each thing that must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tenantd.ledger.inspection import Inspection

_LINES: Final = {
    "file": ("page", "each can be read, and indexes match tables"),
    "schema": ("table, index or trigger", "all there, none added"),
    "references": ("kind of reference", "nothing refers to a missing row"),
    "requests": ("request", "states, times, prices and amounts right"),
    "hours": ("hour", "sums equal requests, days their hours"),
    "budgets": ("budget period", "uses equal requests, top-ups add up"),
    "free quotas": ("tenant", "free tokens equal those of requests"),
    "invoices": ("document", "none missing, none changed, sums right"),
    "idempotency keys": ("key", "stand for requests of their own tenants"),
    "audit trail": ("entry", "each follows from the last, none missing"),
}
"""By the name of the check: what is counted, and what holds of it if nothing was found. Fits 80 columns."""
_PLURALS: Final = {
    "table, index or trigger": "tables, indexes and triggers",
    "kind of reference": "kinds of reference",
    "entry": "entries",
}


def check_lines(found: Inspection) -> dict[str, object]:
    """For each check what was looked at, and that it holds or how many breaches there are."""
    return {name: _line(name, count, found.broken.get(name, 0)) for name, count in found.checked.items()}


def result_line(found: Inspection) -> str:
    """What came of it all."""
    if not found.broken:
        return f"all {len(found.checked)} checks passed"
    total = sum(found.broken.values())
    return f"{_counted(total, 'breach', 'breaches')} in {', '.join(found.broken)}"


def _line(name: str, count: int, broken: int) -> str:
    noun, holds = _LINES[name]
    looked = _counted(count, noun, _PLURALS.get(noun, f"{noun}s"))
    return f"{looked}: {_counted(broken, 'BREACH', 'BREACHES') if broken else holds}"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
