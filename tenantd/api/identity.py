"""Who is asking: identified by an API key if there is one, otherwise by the kernel, which knows the peer's user.

The tenant of a request comes only from here. A header may choose among an identity's tenants, but never grants one.
"""

from __future__ import annotations

import copy
from typing import Final

from starlette.requests import Request
from starlette.types import Scope

from tenantd.api.connection import connection_of
from tenantd.api.connections import is_administrator
from tenantd.domain import Actor, Tenant
from tenantd.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    TenantdError,
    TooManyConnections,
    Unauthenticated,
    key_revoked,
)
from tenantd.printable import without_paths
from tenantd.tenancy.directory import Directory
from tenantd.text.excerpt import excerpt

TENANT_HEADER: Final = "x-tenant"
ASKING: Final = "tenantd.tenant"
KEY: Final = "tenantd.key"
KEYS_TENANT: Final = "tenantd.key.tenant"


def is_admin(request: Request) -> bool:
    """Whether the daemon's own user or root asks, without a key. A request with a key has the key's identity."""
    peer = connection_of(request.scope).peer
    return peer is not None and is_administrator(peer.uid) and "authorization" not in request.headers


def require_admin(request: Request) -> None:
    """Raises Unauthenticated for an Authorization header without a key, Forbidden for anybody but administrators."""
    if "origin" in request.headers:
        raise Forbidden("administration is not allowed from a browser: this request has an Origin header")
    if _bearer(request):
        raise Forbidden("an API key cannot administer; send the request without an Authorization header")
    if not is_admin(request):
        raise Forbidden("only root and the user that runs tenantd can administer it")


def is_known(request: Request, directory: Directory) -> bool:
    """Whether an administrator asks, or somebody with a tenant. False for a wrong key; raises nothing."""
    try:
        require_known(request, directory)
    except TenantdError:
        return False
    return True


def for_asker(error: TenantdError, scope: Scope) -> TenantdError:
    """`error` as the asker may see it: only administrators see paths on this machine."""
    if is_admin(Request(scope)):
        return error
    shown = copy.copy(error)
    shown.message = without_paths(error.message)
    return shown


def require_known(request: Request, directory: Directory) -> None:
    """For answers that are the same for every tenant. Raises Unauthenticated for a wrong key or an unknown user."""
    if key := _bearer(request):
        request.scope["extensions"][ASKING] = _tenant_with(key, request, directory)
    elif not is_admin(request):
        peer = connection_of(request.scope).peer
        if peer is None or not directory.by_uid(peer.uid):
            raise _stranger()


def tenant_of(request: Request, directory: Directory) -> Tenant:
    """The tenant that this request acts for and that pays for it; remembered for the headers of the answer.

    Raises Unauthenticated, Forbidden, NotFound, InvalidRequest, TooManyConnections.
    """
    if connection_of(request.scope).only_administers:
        raise TooManyConnections("this user has too many connections; close some or try again", retry_after_s=1)
    tenant = _identify(request, directory)
    request.scope["extensions"][ASKING] = tenant
    return tenant


def asking(scope: Scope) -> Tenant | None:
    """The tenant that a request acts for, once it is known."""
    tenant: Tenant | None = scope["extensions"].get(ASKING)
    return tenant


def whose(scope: Scope) -> Tenant | None:
    """The tenant of a request as far as it is known: that of its key, if the request was refused before it was made
    for any."""
    tenant: Tenant | None = asking(scope) or scope["extensions"].get(KEYS_TENANT)
    return tenant


def key_of(scope: Scope) -> str:
    """The id of a request's key, once it has been looked up; "" for a request without a key."""
    key_id: str = scope["extensions"].get(KEY, "")
    return key_id


def actor_of(scope: Scope) -> Actor:
    """Who asks; with the key once that has been looked up."""
    peer = connection_of(scope).peer
    key_id = key_of(scope) or None
    return Actor(key_id=key_id) if peer is None else Actor(uid=peer.uid, pid=peer.pid, key_id=key_id)


def require_live_key(scope: Scope, directory: Directory) -> None:
    """Raises KeyRevoked if the key was revoked while the body arrived."""
    if (key_id := key_of(scope)) and not directory.has_key(key_id):
        raise key_revoked()


def _identify(request: Request, directory: Directory) -> Tenant:
    named = request.headers.get(TENANT_HEADER, "")
    if key := _bearer(request):
        return _only(named, [_tenant_with(key, request, directory)], "this API key")
    if is_admin(request) and named:
        try:
            return directory.tenants[named]
        except KeyError:
            raise NotFound(f"no tenant named {excerpt(named, 80)}", param=TENANT_HEADER) from None
    return _by_user(request, directory, named)


def _by_user(request: Request, directory: Directory, named: str) -> Tenant:
    peer = connection_of(request.scope).peer
    own = [] if peer is None else directory.by_uid(peer.uid)
    if own:
        return _only(named, own, f"user {peer.uid if peer else '?'}")
    if is_admin(request):
        raise InvalidRequest("which tenant? send an API key or the header X-Tenant", param=TENANT_HEADER)
    raise _stranger()


def _stranger() -> Unauthenticated:
    return Unauthenticated("this user belongs to no tenant; send an API key as `Authorization: Bearer td_...`")


def _tenant_with(secret: str, request: Request, directory: Directory) -> Tenant:
    found = directory.key_for(secret)
    if found is None:
        raise Unauthenticated("this API key is unknown or was revoked")
    tenant, key_id = found
    request.scope["extensions"][KEY] = key_id
    request.scope["extensions"][KEYS_TENANT] = tenant
    connection = connection_of(request.scope)
    connection.connections_table.use_key(connection, key_id)
    return tenant


def _only(named: str, own: list[Tenant], who: str) -> Tenant:
    """The one of `own` that the request selects."""
    if named:
        for tenant in own:
            if tenant.name == named:
                return tenant
        raise Forbidden(f"{who} may not act for tenant {excerpt(named, 80)}", param=TENANT_HEADER)
    if len(own) > 1:
        names = ", ".join(sorted(t.name for t in own))
        raise InvalidRequest(
            f"{who} can act for several tenants ({names}); choose one with X-Tenant", param=TENANT_HEADER
        )
    return own[0]


def _bearer(request: Request) -> str:
    """The bearer key, or "" if there is no Authorization header. Raises Unauthenticated if it contains no key."""
    header = request.headers.get("authorization")
    if header is None:
        return ""
    scheme, _, key = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated("the Authorization header must be `Bearer <API key>`")
    return key.strip()
