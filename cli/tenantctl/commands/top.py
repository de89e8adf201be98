"""`tenantctl top`: who uses the engine at this moment, and why somebody has to wait."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Final

import typer

from tenantctl.client import Client
from tenantctl.options import Json, TenantFilter, connect, examples, finite
from tenantctl.own_view import OwnView, view_of
from tenantctl.places import SocketPlace
from tenantctl.render import print_json
from tenantctl.top.samples import Sample, Samples

EXAMPLES: Final = examples(
    "tenantctl top",
    "tenantctl top --interval 5",
    "tenantctl top --once",
    "tenantctl top --json | jq '.tenants[] | {name, share, slow_because}'",
)
SIGINT_EXIT: Final = 128 + 2


def top(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.2, max=60, callback=finite, help="Seconds between updates."),
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and exit.")] = False,
    json: Json = False,
) -> None:
    """Watch the engine and all tenants live: what runs and waits, rates, shares, and what slows a tenant down.

    Press ? for the keys. Requests can be cancelled and tenants suspended; both ask first. Tenants see their own, as
    does an administrator with --tenant. Without a terminal, prints one table, with rates over --interval.
    """
    with connect(ctx) as client:
        own = view_of(client, tenant)
        samples = Samples(client, own)
        first = samples.take()
        is_seen = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        if json or once or not is_seen:
            time.sleep(interval)
            _print([first, samples.take()], json=json)
            return
        try:
            _watch(client, own, first, interval)
        except KeyboardInterrupt:
            raise typer.Exit(SIGINT_EXIT) from None


def _print(samples: list[Sample], *, json: bool) -> None:
    from tenantctl.top.live_rows import view
    from tenantctl.top.once import as_json, print_view

    found = view(samples)
    if json:
        print_json(as_json(found))
    else:
        print_view(found)


def _watch(client: Client, own: OwnView | None, first: Sample, interval_s: float) -> None:
    from tenantctl.top.choices import Choices
    from tenantctl.top.gpu_gauges import GpuWatch
    from tenantctl.top.poller import Poller
    from tenantctl.top.raw_terminal import RawTerminal
    from tenantctl.top.showing import Showing

    engine = first.daemon.get("engine") or {}
    gpus = GpuWatch() if engine.get("gpu_build") and isinstance(client.place, SocketPlace) else None
    try:
        with RawTerminal(sys.stdin.fileno(), sys.stdout.fileno()) as terminal:
            poller = Poller(client, own, interval_s, terminal.wake)
            poller.start()
            Showing(terminal, poller, Choices(None if own is None else own.tenant), interval_s, gpus).run(first)
    finally:
        if gpus is not None:
            gpus.close()
