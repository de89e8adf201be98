"""Who is asking: identified by an API key if there is one, otherwise by the kernel, which knows the peer's user.

The tenant of a request comes only from here. A header may choose among an identity's tenants, but never grants one.
Nothing here answers differently, or takes longer, because of a tenant that the asker may not act for.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Final

from starlette.requests import Request
from starlette.types import Scope as Asgi

from tenantd.api.connection import connection_of
from tenantd.api.connections import is_administrator
from tenantd.domain import Actor, Scope, Tenant
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
from tenantd.tenancy.directory import Directory, KnownKey
from tenantd.text.excerpt import excerpt

TENANT_HEADER: Final = "x-tenant"
ASKING: Final = "tenantd.tenant"
KEY: Final = "tenantd.key"
IS_KNOWN: Final = "tenantd.known"


# -- checks, before a handler runs


def look_up_key(request: Request, directory: Directory) -> KnownKey | None:
    """The key that a request shows, remembered for what follows; None if it has no Authorization header.

    Raises Unauthenticated, with the same words for every key that is not live; TooManyConnections; InvalidRequest if a
    header that says who asks is there twice.
    """
    for name in ("Authorization", "X-Tenant"):
        if len(request.headers.getlist(name)) > 1:
            raise InvalidRequest(f"this request has more than one {name} header", param=name.lower())
    secret = _bearer(request)
    if not secret:
        return None
    found = directory.key_for(secret)
    if found is None:
        raise Unauthenticated("this API key is unknown, was revoked or has expired")
    request.scope["extensions"][KEY] = found
    connection = connection_of(request.scope)
    connection.connections_table.use_key(connection, found.id)
    return found


def require_admin(request: Request) -> None:
    """Raises Forbidden for anybody but administrators. Its key has been looked up."""
    if is_admin(request):
        return
    if shown_key(request.scope) is not None:
        raise Forbidden("this API key cannot administer: it does not have the scope admin")
    raise Forbidden("only root and the user that runs tenantd can administer it, or a key with the scope admin")


def refuse_browsers(request: Request) -> None:
    """Raises Forbidden for a request that a page in a browser sends."""
    if "origin" in request.headers:
        raise Forbidden("administration is not allowed from a browser: this request has an Origin header")


def require_scope(request: Request, scopes: Collection[Scope]) -> None:
    """Raises Forbidden for a key with none of these scopes. One that administers may do what any key may."""
    key = shown_key(request.scope)
    if key is not None and Scope.ADMIN not in key.scopes and key.scopes.isdisjoint(scopes):
        has = ", ".join(scope for scope in Scope if scope in key.scopes)
        raise Forbidden(f"this needs an API key with the scope {' or '.join(scopes)}; this one has only: {has}")


def require_known(request: Request, directory: Directory) -> None:
    """For answers that are the same for every tenant. Raises Unauthenticated for an unknown user without a key."""
    key = shown_key(request.scope)
    if key is not None and key.tenant is not None:
        request.scope["extensions"][ASKING] = key.tenant
    elif not is_admin(request):
        peer = connection_of(request.scope).peer
        if peer is None or not directory.by_uid(peer.uid):
            raise _stranger()
    request.scope["extensions"][IS_KNOWN] = True


def require_tenant(request: Request, directory: Directory) -> None:
    """Finds the tenant that this request acts for and that pays for it; see `tenant_of`.

    Raises Unauthenticated, Forbidden, NotFound, InvalidRequest, TooManyConnections.
    """
    if connection_of(request.scope).only_administers:
        raise TooManyConnections("this user has too many connections; close some or try again", retry_after_s=1)
    request.scope["extensions"][ASKING] = _identify(request, directory)


# -- what is known of a request afterwards


def is_admin(request: Request) -> bool:
    """Whether a key with the scope admin asks, or the daemon's own user or root without a key.

    False for a key that has not been looked up: a request with a key has the key's identity.
    """
    if (key := shown_key(request.scope)) is not None:
        return Scope.ADMIN in key.scopes
    peer = connection_of(request.scope).peer
    return peer is not None and is_administrator(peer.uid) and "authorization" not in request.headers


def is_known(request: Request) -> bool:
    """Whether an administrator asks, or somebody with a tenant. False for a wrong key."""
    known: bool = request.scope["extensions"].get(IS_KNOWN, False)
    return known


def for_asker(error: TenantdError, scope: Asgi) -> TenantdError:
    """`error` as the asker may see it: only administrators see paths on this machine."""
    if is_admin(Request(scope)):
        return error
    shown = copy.copy(error)
    shown.message = without_paths(error.message)
    return shown


def tenant_of(request: Request) -> Tenant:
    """The tenant of a request that had to have one."""
    tenant = asking(request.scope)
    assert tenant is not None, "checked before the handler"
    return tenant


def asking(scope: Asgi) -> Tenant | None:
    """The tenant that a request acts for, once it is known."""
    tenant: Tenant | None = scope["extensions"].get(ASKING)
    return tenant


def whose(scope: Asgi) -> Tenant | None:
    """The tenant of a request as far as it is known: that of its key, if the request was refused before it was made
    for any."""
    key = shown_key(scope)
    return asking(scope) or (None if key is None else key.tenant)


def shown_key(scope: Asgi) -> KnownKey | None:
    """The key of a request, once it has been looked up."""
    key: KnownKey | None = scope["extensions"].get(KEY)
    return key


def actor_of(scope: Asgi) -> Actor:
    """Who asks; with the key once that has been looked up."""
    peer, key = connection_of(scope).peer, shown_key(scope)
    key_id = None if key is None else key.id
    return Actor(key_id=key_id) if peer is None else Actor(uid=peer.uid, pid=peer.pid, key_id=key_id)


def require_live_key(scope: Asgi, directory: Directory) -> None:
    """Raises KeyRevoked if the key was revoked or has expired while the body arrived."""
    if (key := shown_key(scope)) is not None and not directory.has_key(key.id):
        raise key_revoked()


# -- the tenant


def _identify(request: Request, directory: Directory) -> Tenant:
    named = request.headers.get(TENANT_HEADER, "")
    key = shown_key(request.scope)
    if key is not None and key.tenant is not None:
        return _only(named, [key.tenant], "this API key")
    if is_admin(request) and named:
        try:
            return directory.tenants[named]
        except KeyError:
            raise NotFound(f"no tenant named {excerpt(named, 80)}", param=TENANT_HEADER) from None
    if key is not None:
        raise InvalidRequest("which tenant? this API key has none; send the header X-Tenant", param=TENANT_HEADER)
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
