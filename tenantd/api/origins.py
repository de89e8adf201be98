"""What pages in browsers may do on a listener: CORS (https://fetch.spec.whatwg.org/#http-cors-protocol), and names.

A key is never sent by itself, as a cookie would be, so a page needs one to do anything. Still, pages may send requests
only if the listener names their origin, and never administer unless they came from the listener itself. A listener on
loopback answers only to names of loopback and those it is told, so that no page can reach it under a name of its own
(DNS rebinding).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.connection import connection_of
from tenantd.config import ListenConfig
from tenantd.errors import Forbidden, InvalidRequest
from tenantd.listen_settings import ANY_ORIGIN
from tenantd.printable import one_line

PREFLIGHT_AGE_S: Final = 600
MOST_SHOWN_CHARACTERS: Final = 200
MOST_ASKED_CHARACTERS: Final = 2000
"""Of the names of headers that a page asks for."""


def check_host(request: Request) -> None:
    """Raises Forbidden if a listener on TCP is not known by the name that the client uses, InvalidRequest if there is
    none or more than one."""
    listen = connection_of(request.scope).door.listen
    if listen is None or not (listen.is_loopback or listen.hosts):
        return
    if len(request.headers.getlist("host")) != 1:
        raise InvalidRequest("this request needs one Host header", param="host")
    name = _name(request.headers["host"])
    if not (name in listen.hosts or _is_plain(name)):
        raise Forbidden(
            f"this listener does not accept the host name {one_line(name, MOST_SHOWN_CHARACTERS)}; "
            "an administrator can add it to hosts in [[server.listen]]",
            param="host",
        )


def is_own(request: Request) -> bool:
    """Whether the page that sends this came from the listener itself, under a name that nobody else can have."""
    listen = connection_of(request.scope).door.listen
    host = request.headers.get("host", "")
    if listen is None or request.headers["origin"] != f"{request.scope['scheme']}://{host}":
        return False
    return _name(host) in listen.hosts or _is_plain(_name(host))


def is_of_same_origin(request: Request) -> bool:
    """Whether the page that sends this has the name and port that it sends it to; a proxy may have spoken TLS to it.
    Enough for what no name gives a right to."""
    host = request.headers.get("host", "")
    return request.headers["origin"] in (f"{request.scope['scheme']}://{host}", f"https://{host}")


def refuse_foreign_pages(request: Request) -> None:
    """Raises Forbidden for a request that a page in a browser sends, unless it came from this listener."""
    if "origin" in request.headers:
        if is_own(request):
            return
        raise Forbidden("administration is not allowed from a browser: this request has an Origin header")


def headers_for_pages(request: Request) -> list[tuple[bytes, bytes]]:
    """What lets a page read the answer, if the listener names its origin. The same without, so that caches can tell."""
    listen = connection_of(request.scope).door.listen
    if listen is None or not listen.origins:
        return []
    shared = [(b"vary", b"Origin")]
    origin = request.headers.get("origin")
    if origin is None or not _is_named(listen, origin):
        return shared
    return [
        *shared,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"*"),
    ]


def answer_options(request: Request, methods: list[str], *, administers: bool) -> Response:
    """What may be sent to a path; for a browser that asks for a page, whether the page may. Raises Forbidden."""
    allowed = ", ".join(methods)
    origin = request.headers.get("origin")
    if origin is None or "access-control-request-method" not in request.headers:
        return Response(status_code=204, headers={"allow": allowed})
    listen = connection_of(request.scope).door.listen
    if not is_own(request) and (administers or listen is None or not _is_named(listen, origin)):
        what = "administer" if administers else "send requests here; see origins in [[server.listen]]"
        raise Forbidden(f"pages of {one_line(origin, MOST_SHOWN_CHARACTERS)} may not {what}")
    headers = {
        "allow": allowed,
        "access-control-allow-methods": allowed,
        "access-control-max-age": str(PREFLIGHT_AGE_S),
    }
    asked = request.headers.get("access-control-request-headers", "")
    if asked and len(asked) <= MOST_ASKED_CHARACTERS and asked.isascii() and asked.isprintable():
        headers["access-control-allow-headers"] = asked
    if request.headers.get("access-control-request-private-network") == "true":
        headers["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=headers)


def _is_named(listen: ListenConfig, origin: str) -> bool:
    return origin in listen.origins or ANY_ORIGIN in listen.origins


def _name(host: str) -> str:
    """The name in a Host header: without port, in lower case, and without the dot at its end."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")


def _is_plain(name: str) -> bool:
    """Whether it is localhost or an IP address, which nobody can point somewhere else."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
