"""Who is asking: identified by an API key if there is one, otherwise by the kernel, which knows the peer's user.

The tenant of a request comes only from here. A header may choose among an identity's tenants, but never grants one.
Nothing here answers differently, or takes longer, because of a tenant that the asker may not act for.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.types import Scope as Asgi

from tenantd.api.connection import connection_of
from tenantd.api.dialect import KEY_HEADER, is_anthropics
from tenantd.domain import Actor, Scope, Tenant
from tenantd.errors import (
    Forbidden,
    InvalidRequest,
    TenantdError,
    TooManyConnections,
    Unauthenticated,
    key_revoked,
)
from tenantd.printable import without_paths
from tenantd.tenancy.directory import Directory, KnownKey
from tenantd.tenancy.tenants import unknown_tenant
from tenantd.text.excerpt import excerpt

TENANT_HEADER: Final = "x-tenant"
ASKING: Final = "tenantd.tenant"
KEY: Final = "tenantd.key"
IS_KNOWN: Final = "tenantd.known"
ACTOR: Final = "tenantd.actor"


# -- checks, before a handler runs


def look_up_key(request: Request, directory: Directory) -> KnownKey | None:
    """The key that a request shows, remembered for what follows; None if it shows none.

    Raises Unauthenticated, with the same words for every key that is not live; TooManyConnections; InvalidRequest if a
    header that says who asks is there twice.
    """
    for name in ("Authorization", "X-Tenant", *((KEY_HEADER,) if is_anthropics(request.scope["path"]) else ())):
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


def stand_for(request: Request, key: KnownKey, actor: Actor) -> None:
    """Treat a request that shows no key as one with this key, and as sent by `actor`: its session has proved that."""
    request.scope["extensions"][KEY] = key
    request.scope["extensions"][ACTOR] = msgspec.structs.replace(actor, address=connection_of(request.scope).address)


def require_admin(request: Request) -> None:
    """Raises Forbidden for anybody but administrators. Its key has been looked up."""
    if is_admin(request):
        return
    if shown_key(request.scope) is not None:
        raise Forbidden("this API key cannot administer: it does not have the scope admin")
    if connection_of(request.scope).peer is None:
        raise _stranger(request)
    raise Forbidden(
        "only root, the user that runs tenantd and server.admin_group can administer it, or a key with the scope admin"
    )


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
            raise _stranger(request)
    request.scope["extensions"][IS_KNOWN] = True


def require_tenant(request: Request, directory: Directory) -> None:
    """Finds the tenant that this request acts for and that pays for it; see `tenant_of`.

    Raises Unauthenticated, Forbidden, NotFound, InvalidRequest, TooManyConnections.
    """
    if connection_of(request.scope).only_administers:
        raise TooManyConnections("this user has too many connections; close some or try again", retry_after_s=1)
    request.scope["extensions"][ASKING] = _identify(request, directory)


def has_right_key(scope: Asgi, directory: Directory) -> bool:
    """Whether a request shows a key that is live, before anything else of it is looked at."""
    return _live_key(scope, directory) is not None


def owner_of(scope: Asgi, directory: Directory) -> Hashable:
    """Who takes turns with others for this request: the tenant of its key, if that is live, else a user or address."""
    if (key := _live_key(scope, directory)) is None:
        return connection_of(scope).source
    return key.id if key.tenant is None else key.tenant.name


def _live_key(scope: Asgi, directory: Directory) -> KnownKey | None:
    request = Request(scope)
    if any(len(request.headers.getlist(name)) > 1 for name in ("authorization", KEY_HEADER)):
        return None
    try:
        return directory.key_for(_bearer(request))
    except (Unauthenticated, InvalidRequest):
        return None


# -- what is known of a request afterwards


def is_admin(request: Request) -> bool:
    """Whether a key with the scope admin asks, or root, the daemon's own user or a member of server.admin_group without
    a key.

    False for a key that has not been looked up: a request with a key has the key's identity.
    """
    if (key := shown_key(request.scope)) is not None:
        return Scope.ADMIN in key.scopes
    return connection_of(request.scope).administers and not _has_key(request)


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


def own_tenants(request: Request, directory: Directory) -> list[Tenant]:
    """Whom the asker can act for: the tenant of its key, or those that list its user."""
    key, peer = shown_key(request.scope), connection_of(request.scope).peer
    if key is not None:
        return [] if key.tenant is None else [key.tenant]
    return [] if peer is None else directory.by_uid(peer.uid)


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
    known: Actor | None = scope["extensions"].get(ACTOR)
    if known is not None:
        return known
    connection, key = connection_of(scope), shown_key(scope)
    peer, key_id = connection.peer, None if key is None else key.id
    if peer is None:
        return Actor(key_id=key_id, address=connection.address)
    return Actor(uid=peer.uid, pid=peer.pid, key_id=key_id)


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
            raise unknown_tenant(named, directory.tenants, param=TENANT_HEADER) from None
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
    raise _stranger(request)


def _stranger(request: Request) -> Unauthenticated:
    is_near = connection_of(request.scope).peer is not None
    why = "this user belongs to no tenant" if is_near else "clients on the network need a key"
    return Unauthenticated(f"{why}; send an API key as `Authorization: Bearer td_...`")


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


def _has_key(request: Request) -> bool:
    """Whether the request shows a key, right or wrong."""
    return "authorization" in request.headers or _anthropics_key(request) is not None


def _anthropics_key(request: Request) -> str | None:
    return request.headers.get(KEY_HEADER) if is_anthropics(request.scope["path"]) else None


def _bearer(request: Request) -> str:
    """The key, or "" if no header shows one. Raises Unauthenticated if the header contains none, InvalidRequest if
    two headers show different ones."""
    header, other = request.headers.get("authorization"), _anthropics_key(request)
    if header is None:
        if other is not None and not other.strip():
            raise Unauthenticated(f"the {KEY_HEADER} header must have an API key")
        return (other or "").strip()
    scheme, _, key = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated("the Authorization header must be `Bearer <API key>`")
    if other is not None and other.strip() != key.strip():
        raise InvalidRequest(f"the headers Authorization and {KEY_HEADER} have different keys; send one of them")
    return key.strip()
