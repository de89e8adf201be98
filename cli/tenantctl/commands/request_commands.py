"""`tenantctl requests` and `cancel`: which requests there were, one of them in every detail, and ending one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from tenantctl.client import Client, segment, url
from tenantctl.completing import LIVE_STATES
from tenantctl.options import Json, TenantFilter, Whose, connect, examples
from tenantctl.own_view import OwnView, own_view, view_of
from tenantctl.render import message, print_json, print_table, print_wide_table, short_each, short_ids
from tenantctl.times import Since, Until, time_range
from tenantctl.units import decimals, milliseconds, moment, money, seconds
from tenantd.clock import now_micros

app = typer.Typer(
    name="requests",
    invoke_without_command=True,
    help="List requests, newest first, or show one of them.\n\nThe time is when a request was created. Prompt tokens do"
    " not include cached ones. On a terminal, ids are cut to their last 8 digits, which all commands accept, and"
    " columns that do not fit are left out.",
    epilog=examples(
        "tenantctl requests --tenant acme --limit 10",
        "tenantctl requests --since 2h --state failed",
        "tenantctl requests --since 2026-11-29 --until 2026-11-30 --key key_0123456789ab",
        "tenantctl requests --wide | less -S",
        "tenantctl requests show 89abcdef",
    ),
)
CANCEL_EXAMPLES: Final = examples(
    "tenantctl requests --limit 5",
    "tenantctl cancel 89abcdef    [dim]# the end of its id, as tables show it[/]",
    "tenantctl cancel req_0123456789abcdef0123456789abcdef",
)
SPARE: Final = ("kind", "engine ms", "cached", "first ms", "took s", "error", "time", "output", "prompt", "cost")
"""Columns of `requests` that are left out first on a narrow terminal."""
USUAL_LIMIT: Final = 50
MOST_ROWS: Final = 10_000
PAGE: Final = 1_000
OWN_PAGE: Final = 200
OWN_PATH: Final = "/v1/requests"
STATES: Final = (*LIVE_STATES, "stop", "length", "cancelled", "disconnected", "failed", "interrupted")
OPEN: Final = "running"
"""The state in the ledger of a request that has not ended, whether it runs or waits."""
RequestId = Annotated[
    str, typer.Argument(metavar="REQUEST", help="Request id, or at least 8 digits of its start or end.")
]

State = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help=f"Only in this state: {', '.join(STATES[:-1])} or {STATES[-1]}.",
    ),
]


@app.callback()
def requests(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    since: Since = None,
    until: Until = None,
    state: State = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="KEY", help="Only with this key: its id, or at least 4 characters of its start or end."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST_ROWS,
            help="Show at most N requests. Default: 50, or 10000 with --since or --until.",
            show_default=False,
        ),
    ] = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="Show whole ids and all columns, however long the lines.")
    ] = False,
    json: Json = False,
) -> None:
    if ctx.invoked_subcommand is not None:
        return
    since_micros, until_micros = time_range(since, until)
    filters = {"tenant": tenant, "since": since_micros, "until": until_micros, "state": state, "key": key}
    most = limit or (USUAL_LIMIT if since is until is None else MOST_ROWS)
    with connect(ctx) as client:
        rows, following = _found(client, own_view(client, tenant), filters, most)
    if json:
        print_json({"requests": rows, "next": following})
        return
    _print(rows, wide=wide)
    if not rows:
        given = [value for value in filters.values() if value is not None]
        message("no such requests" if given else "no requests yet")
    elif following is not None and limit is None and (since or until):
        message(f"showing only the newest {most}; to see older ones, pass an earlier --until")


def _found(
    client: Client, own: OwnView | None, filters: dict[str, Any], most: int
) -> tuple[list[dict[str, Any]], str | None]:
    """At most that many, the newest first, and where others would begin; None if these are all."""
    rows: list[dict[str, Any]] = []
    after: str | None = None
    whose = {} if own is None else {"tenant": own.tenant}
    if own is not None:
        filters = {name: value for name, value in filters.items() if name != "tenant"}
    while len(rows) < most:  # one answer takes a fraction of a second, and may have none although there are more
        asked = {**filters, "limit": min(PAGE if own is None else OWN_PAGE, most - len(rows)), "after": after}
        page = client.get(url("requests"), **asked) if own is None else own.get(OWN_PATH, **asked)
        rows += [{**row, **whose} for row in page["requests"]]
        after = page.get("next")
        if after is None:
            break
    return rows, after


def _print(rows: list[dict[str, Any]], *, wide: bool) -> None:
    places = decimals(r["cost_nanos"] for r in rows if r["state"] != OPEN)
    ids, names = [r["id"] for r in rows], [r["tenant"] for r in rows]
    if not wide:
        ids, names = short_ids(ids), short_each(names)
    columns = ["request", "tenant", "kind", "state", "time", "prompt>", "cached>", "output>"]
    columns += ["engine ms>", "first ms>", "took s>", "cost>", "error"]
    when = moment if wide else _when
    cells = [
        [request, name, *_request_cells(r, when, places)] for request, name, r in zip(ids, names, rows, strict=True)
    ]
    if wide:
        print_wide_table(columns, cells)
    else:
        print_table(columns, cells, SPARE, full=("--wide", "--json"))


def _when(micros: int) -> str:
    """On a terminal, the time of today or the date of another day, so that a row fits into a line."""
    whole = moment(micros)
    if not sys.stdout.isatty():
        return whole
    day, _, time_of_day = whole.partition(" ")
    return time_of_day if day == moment(now_micros())[:10] else day


def _request_cells(r: dict[str, Any], when: Callable[[int], str], places: int) -> list[object]:
    return [
        r["kind"],
        r["live_state"] or r["state"],
        when(r["created_micros"]),
        r["prompt_tokens"],
        r["cached_tokens"],
        r["completion_tokens"],
        milliseconds(r["engine_micros"]),
        milliseconds(r["first_token_micros"]),
        seconds(r["duration_micros"]),
        None if r["state"] == OPEN else money(r["cost_nanos"], places),
        r["error"],
    ]


@app.command(
    epilog=examples(
        "tenantctl requests show 89abcdef", "tenantctl requests show req_0123456789abcdef --json | jq .request"
    )
)
def show(ctx: typer.Context, request: RequestId, tenant: Whose = None, json: Json = False) -> None:
    """Show everything known about a request: times, key, slot, pauses, cost, and its entries in the audit trail.

    Tenants can see their own requests, without the audit entries.
    """
    from tenantctl.request_page import print_request

    with connect(ctx) as client:
        own = view_of(client, tenant)
        answer = client.get(url("requests", request)) if own is None else _own_request(own, request)
    if json:
        print_json(answer)
    else:
        print_request(answer)


def _own_request(own: OwnView, request: str) -> dict[str, Any]:
    answer: dict[str, Any] = own.get(f"{OWN_PATH}/{segment(request)}")
    return answer


def cancel(ctx: typer.Context, request: RequestId, tenant: Whose = None, json: Json = False) -> None:
    """Cancel a running or waiting request.

    Tokens generated so far are billed. Tenants can cancel their own requests.
    """
    with connect(ctx) as client:
        if (own := view_of(client, tenant)) is None:
            answer = client.post(url("requests", request, "cancel"))
        else:
            answer = own.post(f"{OWN_PATH}/{_own_request(own, request)['request']['id']}/cancel")
    if json:
        print_json(answer)
    else:
        message(f"cancelled {answer['cancelled']}")
