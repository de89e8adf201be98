"""Who is asking: a key if one is shown, else the kernel's word on the user at the other end of the socket.

The tenant of a request comes from here only. A header may choose among the tenants an identity has; it never gives one.
"""

from __future__ import annotations

import os
from typing import Final

from starlette.requests import Request
from starlette.types import Scope

from tenantd.api.connection import connection_of
from tenantd.domain import Tenant
from tenantd.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from tenantd.tenancy.directory import Directory

TENANT_HEADER: Final = "x-tenant"
ASKING: Final = "tenantd.tenant"


def is_admin(request: Request) -> bool:
    """The daemon's own user and root administer. A key never does."""
    peer = connection_of(request.scope).peer
    return peer is not None and peer.uid in (0, os.geteuid())


def require_admin(request: Request) -> None:
    """Raises Forbidden."""
    if not is_admin(request):
        raise Forbidden("only root and the user that runs tenantd administer it")


def require_known(request: Request, directory: Directory) -> None:
    """For what is the same for everybody. Raises Unauthenticated for a wrong key and for a stranger."""
    if key := _bearer(request):
        request.scope["extensions"][ASKING] = _tenant_with(key, directory)
    elif not is_admin(request):
        peer = connection_of(request.scope).peer
        if peer is None or not directory.by_uid(peer.uid):
            raise _stranger()


def tenant_of(request: Request, directory: Directory) -> Tenant:
    """The tenant this request is made, and billed, for; noted for the headers of its answer.

    Raises Unauthenticated, Forbidden, NotFound, InvalidRequest.
    """
    tenant = _identify(request, directory)
    request.scope["extensions"][ASKING] = tenant
    return tenant


def asking(scope: Scope) -> Tenant | None:
    """The tenant a request is made for, once that is known."""
    tenant: Tenant | None = scope["extensions"].get(ASKING)
    return tenant


def _identify(request: Request, directory: Directory) -> Tenant:
    named = request.headers.get(TENANT_HEADER, "")
    if key := _bearer(request):
        return _only(named, [_tenant_with(key, directory)], "this API key")
    if is_admin(request) and named:
        try:
            return directory.tenants[named]
        except KeyError:
            raise NotFound(f"no tenant named {named!r}", param=TENANT_HEADER) from None
    return _by_user(request, directory, named)


def _by_user(request: Request, directory: Directory, named: str) -> Tenant:
    peer = connection_of(request.scope).peer
    own = [] if peer is None else directory.by_uid(peer.uid)
    if own:
        return _only(named, own, f"user {peer.uid if peer else '?'}")
    if is_admin(request):
        raise InvalidRequest("say for which tenant: an API key, or the header X-Tenant", param=TENANT_HEADER)
    raise _stranger()


def _stranger() -> Unauthenticated:
    return Unauthenticated("no tenant lists this user; send an API key as `Authorization: Bearer td_...`")


def _tenant_with(key: str, directory: Directory) -> Tenant:
    tenant = directory.by_key(key)
    if tenant is None:
        raise Unauthenticated("this API key is not known here, or was revoked")
    return tenant


def _only(named: str, own: list[Tenant], who: str) -> Tenant:
    """The one of `own` that is meant."""
    if named:
        for tenant in own:
            if tenant.name == named:
                return tenant
        raise Forbidden(f"{who} may not act for tenant {named!r}", param=TENANT_HEADER)
    if len(own) > 1:
        names = ", ".join(sorted(t.name for t in own))
        raise InvalidRequest(f"{who} acts for several tenants ({names}); choose with X-Tenant", param=TENANT_HEADER)
    return own[0]


def _bearer(request: Request) -> str:
    """The key shown, or "" when none is. Raises Unauthenticated for another scheme."""
    header = request.headers.get("authorization")
    if header is None:
        return ""
    scheme, _, key = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("the Authorization header must be `Bearer <API key>`")
    return key.strip()
