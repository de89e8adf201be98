"""`tenantctl limits` and `queue`: what a tenant may still use, and what waits."""

from __future__ import annotations

from typing import Any, Final

import typer

from tenantctl.client import Client, url
from tenantctl.options import ActingTenant, Json, TenantFilter, connect, examples
from tenantctl.own_status import print_limits
from tenantctl.own_view import own_view
from tenantctl.queue_table import print_queue
from tenantctl.render import message, print_json

LIMITS_EXAMPLES: Final = examples("tenantctl limits --tenant acme", "TENANTD_API_KEY=td_... tenantctl limits --json")
QUEUE_EXAMPLES: Final = examples("tenantctl queue", "tenantctl queue --tenant acme --json")
MOST_SHOWN: Final = 100


def limits(ctx: typer.Context, tenant: ActingTenant = None, json: Json = False) -> None:
    """Show a tenant's limits and budgets, and what is left of them."""
    with connect(ctx) as client:
        answer = client.own("/v1/limits", tenant)
    if json:
        print_json(answer)
    else:
        print_limits(answer)


def queue(ctx: typer.Context, tenant: TenantFilter = None, json: Json = False) -> None:
    """Show which requests are waiting, and how long each will still wait.

    Shows the first 100, in the order in which they should get their first token. Tenants see their own.
    """
    with connect(ctx) as client:
        entries, waiting = _waiting(client, tenant)
    if json:
        print_json({"waiting": entries})
    elif entries:
        print_queue(entries, waiting, MOST_SHOWN)
    else:
        message("no requests are waiting")


def _waiting(client: Client, tenant: str | None) -> tuple[list[dict[str, Any]], int]:
    """The first in the queue, and how many there are."""
    if (own := own_view(client, tenant)) is not None:
        tenant = own.tenant
    if tenant is None:
        state = client.get(url("status"))
        return state["queue"], state["waiting"]
    entries = client.queue(tenant)
    return entries, len(entries)
