"""Reads entries of the audit trail from the daemon, page by page, and follows it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from typing import Any, Final

import typer

from tenantctl.client import Client, url
from tenantctl.times import time_range
from tenantd.errors import TenantdError

POLL_S: Final = 1.0
PAGE: Final = 1000
Filters = dict[str, Any]


def wanted(
    tenant: str | None,
    since: str | None,
    until: str | None,
    event: str | None,
    request: str | None,
    tenant_id: int | None,
) -> Filters:
    """The query for entries that match all of these; None matches any. Raises BadParameter."""
    if tenant_id is not None and tenant is None:
        raise typer.BadParameter("needs --tenant, the name that it had", param_hint="--id")
    since_micros, until_micros = time_range(since, until)
    return {
        "tenant": tenant,
        "id": tenant_id,
        "since": since_micros,
        "until": until_micros,
        "event": event,
        "request": request,
    }


def newest_entries(client: Client, filters: Filters, limit: int) -> tuple[list[dict[str, Any]], int, bool]:
    """The newest entries, oldest first; the number to follow the trail from; and whether these are all."""
    found: list[dict[str, Any]] = []
    before, head = None, None
    while len(found) <= limit:  # one more tells whether there are others
        page = client.get(url("audit"), **filters, before=before, limit=min(PAGE, limit + 1 - len(found)))
        found += page["entries"]
        head = page["head"] if head is None else head
        before = page["next"]
        if before is None:
            break
    assert head is not None, "at least one page is read"
    shown = found[:limit]
    return shown[::-1], max([head, *(entry["number"] for entry in shown)]), len(shown) == len(found)


def entries_after(client: Client, filters: Filters, after: int) -> Generator[dict[str, Any], None, int]:
    """All entries after a number that exist now, oldest first. Returns the number to go on from."""
    while True:
        page = client.get(url("audit"), **filters, after=after, limit=PAGE)
        yield from page["entries"]
        if page["next"] is None:
            newest: int = max([after, page["head"], *(entry["number"] for entry in page["entries"])])
            return newest
        after = page["next"]


def following(client: Client, filters: Filters, after: int) -> Iterator[dict[str, Any]]:
    """New entries, without end."""
    while True:
        after = yield from entries_after(client, filters, after)
        time.sleep(POLL_S)


class KeyLabels:
    """What each key that administers is for, by its id. Asks the daemon when a new one appears."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._labels: dict[str, str] = {"": ""}

    def __call__(self, key_id: str) -> str:
        """Its label; "" if it has none, or the daemon does not tell."""
        if key_id not in self._labels:
            with contextlib.suppress(TenantdError):  # the entry itself is what matters
                self._labels |= {key["id"]: key["label"] for key in self._client.get(url("keys"))["keys"]}
            self._labels.setdefault(key_id, "")
        return self._labels[key_id]
