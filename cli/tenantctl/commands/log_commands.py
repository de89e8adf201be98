"""`tenantctl logs`: a line for each request that has ended."""

from __future__ import annotations

import json as json_lines
import sys
import time
from collections.abc import Iterator
from textwrap import wrap
from typing import Annotated, Any, Final

import typer

from tenantctl.client import Client, url
from tenantctl.options import Json, TenantFilter, connect, examples
from tenantctl.render import message, print_json, terminal_width
from tenantctl.times import Since, moment_of
from tenantctl.units import moment
from tenantd.printable import one_line

EXAMPLES: Final = examples(
    "tenantctl logs --tenant acme --since 10m",
    "tenantctl logs -f --limit 1",
    "tenantctl logs -f --json | jq 'select(.state == \"failed\")'",
)
USUALLY_SHOWN: Final = 50
PAGE: Final = 1000
POLL_S: Final = 1.0
SIGINT_EXIT: Final = 128 + 2


def logs(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    since: Since = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines as they come.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=PAGE,
            help=f"Show at most the newest N lines. Default: {USUALLY_SHOWN}, or {PAGE} with --since.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show a line for each request that has ended, oldest first: who, when, how much, and how it ended.

    Prompts and answers are never logged. The daemon keeps the lines of the last 10,000 requests since it started, and
    also writes them to its own log, at level info. For earlier requests, see `tenantctl requests --since`.
    With --follow, --json prints one object per line.
    """
    since_micros = None if since is None else moment_of(since, "--since")
    with connect(ctx) as client:
        most = limit or (USUALLY_SHOWN if since is None else PAGE)
        found = client.get(url("logs"), tenant=tenant, since=since_micros, limit=most)
        if since_micros is not None and since_micros < found["since_micros"]:
            message(f"earlier lines than of {moment(found['since_micros'])} are not kept: tenantctl requests --since")
        if json and not follow:
            print_json({"lines": found["lines"]})
            return
        try:
            _show(found["lines"], json)
            if not found["lines"]:
                message(_none(found, since_micros))
            if follow:
                _follow(client, tenant, found["head"], json)
        except KeyboardInterrupt:
            raise typer.Exit(SIGINT_EXIT) from None


def _none(found: dict[str, Any], since_micros: int | None) -> str:
    """What to say if there are no lines: since when."""
    if found["head"]:  # of other tenants, or earlier
        return f"no such requests have ended since {moment(max(found['since_micros'], since_micros or 0))}"
    began = moment(found["since_micros"])
    return f"no requests have ended since the daemon started, at {began}; for earlier ones: tenantctl requests"


def _follow(client: Client, tenant: str | None, head: int, json: bool) -> None:
    for found in _new(client, tenant, head):
        if found["missed"]:
            message(f"{found['missed']} lines were missed")
        _show(found["lines"], json)


def _new(client: Client, tenant: str | None, after: int) -> Iterator[dict[str, Any]]:
    """New lines, without end."""
    while True:
        found = client.get(url("logs"), tenant=tenant, after=after, limit=PAGE)
        yield found
        if len(found["lines"]) < PAGE:
            after = found["head"]
            time.sleep(POLL_S)
        else:
            after = found["lines"][-1]["number"]


def _show(lines: list[dict[str, Any]], json: bool) -> None:
    for line in lines:
        print(json_lines.dumps(line) if json else _folded(_in_words(line)), flush=True)


def _folded(line: str) -> str:
    """On a terminal, broken between words; elsewhere as it is."""
    if not sys.stdout.isatty():
        return line
    width = terminal_width()
    return "\n".join(wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def _in_words(line: dict[str, Any]) -> str:
    """As in the daemon's own log."""
    import msgspec

    from tenantd.watching.request_log import LogLine, in_words

    return one_line(f"{moment(line['at_micros'])} {in_words(msgspec.convert(line, LogLine))}")
