"""`tenantctl audit`: read, follow, check and export the audit trail."""

from __future__ import annotations

import json as json_lines
import time
from collections.abc import Generator, Iterator
from typing import Annotated, Any, Final

import typer

from tenantctl.audit_lines import COLUMNS, line, rows
from tenantctl.client import Client, url
from tenantctl.options import Json, TenantFilter, connect, examples
from tenantctl.render import message, print_json, print_table
from tenantctl.times import Since, Until, moment_of

app = typer.Typer(name="audit", help="Read and check the audit trail: who did what, and when.", no_args_is_help=True)

POLL_S: Final = 1.0
PAGE: Final = 1000
SIGINT_EXIT: Final = 128 + 2
Filters = dict[str, Any]
Event = Annotated[
    str | None, typer.Option(metavar="EVENT", help="Only these: entered, response, refused, administered and others.")
]
RequestFilter = Annotated[
    str | None, typer.Option("--request", metavar="REQUEST", help="Only entries of this request.")
]


@app.command(
    epilog=examples(
        "tenantctl audit log --tenant acme --since 2h",
        "tenantctl audit log --event administered --since 2026-11-01",
        "tenantctl audit log --request req_0123456789abcdef0123456789abcdef --json",
        "tenantctl audit log --follow --json | jq .event",
    )
)
def log(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    since: Since = None,
    until: Until = None,
    event: Event = None,
    request: RequestFilter = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Show the newest N entries.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new entries as they come.")] = False,
    json: Json = False,
) -> None:
    """Show the newest entries of the audit trail, oldest first.

    With --follow, --json prints one object per line.
    """
    if follow and until is not None:
        raise typer.BadParameter("cannot be used with --follow", param_hint="--until")
    filters = _filters(tenant, since, until, event, request)
    with connect(ctx) as client:
        entries, head = _newest(client, filters, limit)
        if not follow:
            _print(entries, json)
            return
        try:
            for entry in entries:
                _print_one(entry, json)
            for entry in _following(client, filters, head):
                _print_one(entry, json)
        except KeyboardInterrupt:
            raise typer.Exit(SIGINT_EXIT) from None


def _filters(
    tenant: str | None, since: str | None, until: str | None, event: str | None, request: str | None
) -> Filters:
    return {
        "tenant": tenant,
        "since": None if since is None else moment_of(since),
        "until": None if until is None else moment_of(until),
        "event": event,
        "request": request,
    }


def _newest(client: Client, filters: Filters, limit: int) -> tuple[list[dict[str, Any]], int]:
    """The newest entries, oldest first, and the number to follow the trail from."""
    found: list[dict[str, Any]] = []
    before, head = None, None
    while len(found) < limit:
        page = client.get(url("audit"), **filters, before=before, limit=min(PAGE, limit - len(found)))
        found += page["entries"]
        head = page["head"] if head is None else head
        before = page["next"]
        if before is None:
            break
    assert head is not None, "at least one page is read"
    newer = [entry["number"] for entry in found]
    return found[::-1], max([head, *newer])


def entries_after(client: Client, filters: Filters, after: int) -> Generator[dict[str, Any], None, int]:
    """All entries after a number that exist now, oldest first. Returns the number to go on from."""
    while True:
        page = client.get(url("audit"), **filters, after=after, limit=PAGE)
        yield from page["entries"]
        if page["next"] is None:
            newest: int = max([after, page["head"], *(entry["number"] for entry in page["entries"])])
            return newest
        after = page["next"]


def _following(client: Client, filters: Filters, after: int) -> Iterator[dict[str, Any]]:
    """New entries, for ever."""
    while True:
        after = yield from entries_after(client, filters, after)
        time.sleep(POLL_S)


def _print(entries: list[dict[str, Any]], json: bool) -> None:
    if json:
        print_json({"entries": entries})
        return
    print_table(COLUMNS, rows(entries))
    if not entries:
        message("no such entries")


def _print_one(entry: dict[str, Any], json: bool) -> None:
    print(json_lines.dumps(entry) if json else line(entry), flush=True)
