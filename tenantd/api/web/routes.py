"""The page, logging in and out, and what the page asks for: operations of the API, with a session instead of a key.

So a session sees what its key sees, decided by the same code. What is not in `ASKED` has to be done elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypedDict

from pydantic import Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tenantd import __version__
from tenantd.api.body import Body, parse, read_body
from tenantd.api.connection import connection_of
from tenantd.api.identity import actor_of
from tenantd.api.operations import Access, Operation
from tenantd.api.replies import reply
from tenantd.api.web.page_files import PageFile, page_files
from tenantd.api.web.page_sessions import INVITATION_S, Opened, Session
from tenantd.api.web.pages import DATA, HOME, OWN_DOOR, SESSIONS, Pages, cookie_name
from tenantd.domain import Actor
from tenantd.errors import Forbidden, InvalidRequest, Unauthenticated
from tenantd.events import Action, Administered
from tenantd.request_ids import new_request_id
from tenantd.serving.service import Service
from tenantd.tenancy.recorded import of_actor

ASKED: Final = {
    ("GET", "/v1/history"),
    ("GET", "/v1/limits"),
    ("GET", "/v1/queue"),
    ("GET", "/v1/requests"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/usage/{by}"),
    ("GET", "/v1/invoices/{month}"),
    ("POST", "/v1/requests/{request_id}/cancel"),
    ("GET", "/admin/v1/status"),
    ("GET", "/admin/v1/history"),
    ("GET", "/admin/v1/stats"),
    ("GET", "/admin/v1/requests"),
    ("GET", "/admin/v1/usage/{by}"),
    ("GET", "/admin/v1/invoices/{month}"),
    ("POST", "/admin/v1/requests/{request_id}/cancel"),
}
"""All that the page asks for."""
MOST_LOGIN_BYTES: Final = 1024


class LoggingIn(Body):
    """What begins a session: a key, or what is behind the # of an address of `tenantctl web`."""

    key: str | None = Field(None, max_length=200)
    invitation: str | None = Field(None, max_length=200)


class Invited(TypedDict):
    """The address to open, once, within `expires_s`. It administers: keep it to yourself."""

    url: str
    expires_s: float


class EndedSessions(TypedDict):
    """How many pages were open."""

    ended: int


def invitation_operations(service: Service, pages: Pages) -> list[Operation]:
    """What administrators do to open the page for themselves."""

    async def invite_to_page(request: Request) -> Response:
        """Open the web page for an administrator, on a loopback port that stays open while the page is used.

        Works only over the Unix socket.
        """
        if connection_of(request.scope).peer is None:
            raise Forbidden(
                "the page can only be opened over the daemon's socket; on the network, log in at /web/ with a key"
            )
        actor = actor_of(request.scope)
        address = await pages.invite(actor)
        service.events.announce(Administered(action=Action.PAGE_OPENED, **of_actor(actor)))
        return reply(Invited(url=address, expires_s=INVITATION_S), status=201)

    async def close_pages() -> Response:
        """Close all pages that administrators have opened this way."""
        return reply(EndedSessions(ended=pages.end_invited()))

    return [
        Operation("POST", "/admin/v1/web", invite_to_page, Invited, status=201),
        Operation("DELETE", "/admin/v1/web", close_pages, EndedSessions),
    ]


def page_operations(service: Service, pages: Pages, described: Iterable[Operation]) -> list[Operation]:
    """The page's own routes, and those of `described` that it asks for, below `DATA`."""
    logins = _Logins(service, pages)
    own = functools.partial(Operation, answer=str, access=Access.ANYONE, scopes=())
    asked = [one._replace(path=DATA + one.path) for one in described if (one.method, one.path) in ASKED]
    assert len(asked) == len(ASKED), "all of it is there"
    return [
        own("GET", HOME.rstrip("/"), _to_the_page),
        *(own("GET", HOME + file.name, _shower(file)) for file in page_files()),
        own("GET", SESSIONS, logins.show),
        own("POST", SESSIONS, logins.log_in),
        own("DELETE", SESSIONS, logins.log_out),
        *asked,
    ]


async def _to_the_page() -> Response:
    return RedirectResponse(HOME, 308, {"x-request-id": new_request_id()})


def _shower(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        is_known = request.headers.get("if-none-match") == file.etag
        headers = {**file.headers, "x-request-id": new_request_id()}
        return Response(b"" if is_known else file.content, 304 if is_known else 200, headers)

    return show


class _Logins:
    """The route handlers for sessions."""

    def __init__(self, service: Service, pages: Pages) -> None:
        self._service, self._pages = service, pages

    async def show(self, request: Request) -> Response:
        session = self._pages.session_of(request.scope)
        if session is not None:
            self._pages.sessions.use(session)
            session.leave()
        return self._reply(self._state(request, session))

    async def log_in(self, request: Request) -> Response:
        wanted = parse(LoggingIn, await read_body(request, MOST_LOGIN_BYTES))
        door = connection_of(request.scope).door.name
        if wanted.invitation is not None and wanted.key is None:
            if door != OWN_DOOR:
                raise Forbidden("this address accepts no invitations; log in with a key")
            try:
                opened = self._pages.sessions.accept(wanted.invitation, door)
            except Unauthenticated:
                await self._hold_up(request)
                raise
        elif wanted.key is not None and wanted.invitation is None:
            if door == OWN_DOOR:
                raise Forbidden("this address accepts no keys; run `tenantctl web` for a new address")
            opened = await self._by_key(request, wanted.key.strip(), door)
        else:
            raise InvalidRequest("send either key or invitation", param="key")
        state = {**self._state(request, opened.session), "page": opened.page}
        return self._reply(state, cookie=_cookie(request, opened.cookie), status=201)

    async def _by_key(self, request: Request, secret: str, door: str) -> Opened:
        key = self._service.directory.key_for(secret)
        if key is None:
            await self._hold_up(request)
            raise Unauthenticated("this API key is unknown, was revoked or has expired")
        connection = connection_of(request.scope)
        connection.connections_table.use_key(connection, key.id)
        self._service.key_used(key, Actor(key_id=key.id))
        return self._pages.sessions.log_in(key, door)

    async def _hold_up(self, request: Request) -> None:
        """As wherever a wrong key is shown."""
        connection = connection_of(request.scope)
        assert connection.address is not None, "the page is served on TCP"
        await connection.connections_table.wrong_keys.hold_up(connection.address)

    async def log_out(self, request: Request) -> Response:
        session = self._pages.session_of(request.scope)
        if session is not None:
            self._pages.sessions.end(session)
        return self._reply(self._state(request, None), cookie=_cookie(request, ""))

    def _state(self, request: Request, session: Session | None) -> dict[str, Any]:
        """What the page has to know before it asks for more; only of what its session may see."""
        takes = "invitation" if connection_of(request.scope).door.name == OWN_DOOR else "key"
        asker = None if session is None else self._pages.sessions.asker(session)
        if asker is None:
            return {"login": takes, "session": None}
        tenant = asker.key.tenant
        known = {
            "administers": tenant is None,
            "tenant": None if tenant is None else tenant.name,
            "scopes": sorted(asker.key.scopes),
            "version": __version__,
            "model": self._service.config.model_name,
            "timezone": self._service.config.billing.timezone,
            "currency": self._service.config.billing.currency,
        }
        return {"login": takes, "session": known}

    def _reply(self, state: dict[str, Any], *, cookie: str | None = None, status: int = 200) -> Response:
        return reply(state, status=status, headers={} if cookie is None else {"set-cookie": cookie})


def _cookie(request: Request, value: str) -> str:
    """The header that sets it, or removes it if there is no value. It ends with the browser at the latest."""
    is_secret = request.scope["scheme"] == "https" or request.headers.get("origin", "").startswith("https://")
    end = "" if value else "; Max-Age=0"
    secure = "; Secure" if is_secret else ""
    return f"{cookie_name(request.scope)}={value}; Path={HOME}; HttpOnly; SameSite=Strict{secure}{end}"
