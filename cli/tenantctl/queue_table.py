"""Waiting requests as a table."""

from __future__ import annotations

from typing import Any, Final

from tenantctl.render import message, print_table, short_each, short_ids
from tenantctl.units import span

MOST_QUEUED: Final = 10


def print_queue(entries: list[dict[str, Any]], waiting: int, most: int = MOST_QUEUED) -> None:
    """The first `most` entries, of `waiting` in all."""
    shown = entries[:most]
    columns = ["waiting request", "tenant", "position>", "waited>", "est. wait>"]
    ids, names = short_ids([entry["id"] for entry in shown]), short_each([entry["tenant"] for entry in shown])
    print_table(columns, [_row(*each) for each in zip(ids, names, shown, strict=True)], ("est. wait", "waited"))
    if waiting > len(shown):
        message(f"and {waiting - len(shown)} more")


def _row(request: str, tenant: str, entry: dict[str, Any]) -> list[object]:
    return [request, tenant, entry["position"], f"{entry['waited_ms'] / 1000:.1f} s", wait_of(entry)]


def wait_of(entry: dict[str, Any]) -> str:
    """The range of how long it will wait for its first token."""
    return span(entry["estimated_wait_low_ms"] / 1000, entry["estimated_wait_high_ms"] / 1000)
