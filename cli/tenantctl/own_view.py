"""Whose figures a command shows: everybody's to administrators, and to others those of their own tenant."""

from __future__ import annotations

from typing import Any

import typer

from tenantctl.client import Client
from tenantd.errors import NotFound


class OwnView:
    """What a tenant may ask of itself."""

    def __init__(self, client: Client, tenant: str) -> None:
        self.tenant = tenant
        self._client = client

    def get(self, path: str, **query: Any) -> Any:
        """The answer of a route below /v1."""
        return self._client.own(path, self.tenant, **query)

    def post(self, path: str) -> Any:
        return self._client.post_own(path, self.tenant)


def view_of(client: Client, tenant: str | None) -> OwnView | None:
    """Like `own_view`, but administrators too see only a tenant that they name."""
    own = own_view(client, tenant)
    return OwnView(client, tenant) if own is None and tenant is not None else own


def own_view(client: Client, tenant: str | None) -> OwnView | None:
    """None for administrators. `tenant` is the one that was named, if any.

    Raises BadParameter if there are several to choose from, Unauthenticated for a stranger.
    """
    if client.is_administrator:
        return None
    try:
        who = client.get("/v1/identity")
    except NotFound:  # an earlier version of the daemon, which has nothing but administration to offer here
        return None
    if who["administers"]:
        return None
    if tenant is None and len(who["tenants"]) != 1:
        raise typer.BadParameter(f"choose a tenant: {', '.join(who['tenants'])}", param_hint="--tenant")
    return OwnView(client, tenant or who["tenants"][0])
