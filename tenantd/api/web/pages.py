"""Where the page is served, who may ask for it, and the listener that is open while an administrator uses it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Final, Protocol

from starlette.requests import Request
from starlette.types import Scope

from tenantd.api.connection import connection_of
from tenantd.api.doors import Door, OwnDoor
from tenantd.api.identity import stand_for
from tenantd.api.origins import is_of_same_origin
from tenantd.api.peers import is_member
from tenantd.api.web.page_sessions import IDLE_S, PageSessions, Session, is_by_group
from tenantd.config import ListenConfig, ServerConfig
from tenantd.domain import Actor
from tenantd.errors import Draining, Forbidden, NotFound, TooManyConnections, Unauthenticated
from tenantd.tenancy.directory import Directory

log = logging.getLogger(__name__)

HOME: Final = "/web/"
DATA: Final = HOME + "data"
SESSIONS: Final = HOME + "session"
PAGE_HEADER: Final = "x-tenantd-page"
"""Has the page's own secret."""
OWN_DOOR: Final = "web"
LOOPBACK: Final = "127.0.0.1"
MOST_CONNECTIONS: Final = 64
LOOK_EVERY_S: Final = 5.0
MOST_COOKIE_CHARACTERS: Final = 4096
SESSION: Final = "tenantd.session"
HEADERS: Final = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
"""Of every answer below `HOME`: nothing of another origin is loaded, no text becomes markup, and no page frames it."""


class Accepting(Protocol):
    """Takes the connections of a listening socket."""

    def close(self) -> None:
        """Stop. Safe to call twice."""


class Pages:
    """The sessions, and the listener that only serves the page, to administrators who were invited."""

    def __init__(
        self,
        directory: Directory,
        settings: Callable[[], ServerConfig],
        is_member: Callable[[int, str], bool] = is_member,
    ) -> None:
        """`settings` is called each time, because settings can be reloaded. `is_member` tells of a user whether it is
        in a group, in any thread."""
        self.sessions = PageSessions(directory)
        self._settings, self._is_member = settings, is_member
        self._accept: Callable[[socket.socket, Door], Accepting] | None = None
        self._open: tuple[socket.socket, Accepting] | None = None
        self._looking: asyncio.Task[None] | None = None

    # -- who may ask

    def check(self, request: Request) -> None:
        """Raises NotFound for a path that is not served where it is asked for, Forbidden for other pages' requests."""
        door = connection_of(request.scope).door
        is_own = door.name == OWN_DOOR
        if not is_of_page(request.scope["path"]):
            if is_own:
                raise NotFound("only the web page is served on this port")
            return
        if door.listen is None or not (is_own or door.listen.has_page):
            raise NotFound("the web page is not served here: run tenantctl web on the daemon's machine")
        if "origin" in request.headers and not is_of_same_origin(request):
            raise Forbidden("the page accepts no requests from other pages")
        site, is_visit = request.headers.get("sec-fetch-site"), request.headers.get("sec-fetch-mode") == "navigate"
        if site in ("cross-site", "same-site") and not (is_visit and request.method == "GET"):
            raise Forbidden("the page accepts no requests from other pages")

    def session_of(self, scope: Scope) -> Session | None:
        """The session that a request proves, if there is one."""
        request = Request(scope)
        cookie, page = _cookies(request).get(cookie_name(scope)), request.headers.get(PAGE_HEADER)
        if cookie is None or page is None:
            return None
        return self.sessions.find(cookie.value, page, connection_of(scope).door.name)

    def has_session(self, scope: Scope) -> bool:
        """Whether a request is of a session, before anything else of it is looked at."""
        return is_of_page(scope["path"]) and self.session_of(scope) is not None

    async def identify(self, request: Request) -> None:
        """Let a request act for whom its session stands. Raises Unauthenticated, TooManyPageRequests."""
        session = self.session_of(request.scope)
        asker = None if session is None else self.sessions.asker(session)
        if session is None or asker is None:
            raise Unauthenticated(
                f"log in first; a login ends with its key, and after {IDLE_S / 60:.0f} minutes without use"
            )
        connection = connection_of(request.scope)
        if asker.key.id and session.actor is None:
            connection.connections_table.use_key(connection, asker.key.id)
        self.sessions.use(session)
        request.scope["extensions"][SESSION] = session
        stand_for(request, asker.key, asker.actor)

    # -- the administrators' own listener

    def listen_with(self, accept: Callable[[socket.socket, Door], Accepting]) -> None:
        """`accept` begins to serve connections of a socket."""
        self._accept = accept

    async def invite(self, actor: Actor) -> str:
        """An address that opens the page once, within a minute. Raises Draining, Forbidden, TooManyConnections."""
        if is_by_group(actor) and actor.uid is not None and await self._former({actor.uid}):
            raise Forbidden("this user is no longer in server.admin_group")
        if self._accept is None:
            raise Draining("the daemon is still starting or about to stop")
        if self._open is None:
            self._open = self._listen(self._accept)
            self._looking = asyncio.create_task(self._look())
        host, port = self._open[0].getsockname()
        return f"http://{host}:{port}{HOME}#{self.sessions.invite(actor)}"

    def end_invited(self) -> int:
        """End the sessions of all who were invited. Returns how many there were."""
        ended = self.sessions.end_invited()
        self._stop()
        return ended

    def close(self) -> None:
        """Stop listening, for good. Safe to call twice."""
        self._accept = None
        self._stop()

    def _listen(self, accept: Callable[[socket.socket, Door], Accepting]) -> tuple[socket.socket, Accepting]:
        try:
            sock = socket.create_server((LOOPBACK, 0), backlog=MOST_CONNECTIONS)
        except OSError as e:
            raise TooManyConnections(f"cannot listen on {LOOPBACK}: {e.strerror}", retry_after_s=1) from e
        sock.setblocking(False)
        address = f"{LOOPBACK}:{sock.getsockname()[1]}"
        listen = ListenConfig(address=address, max_connections=MOST_CONNECTIONS)
        return sock, accept(sock, OwnDoor(self._settings, OWN_DOOR, listen))

    async def _look(self) -> None:
        """Close when nobody uses the page any more. Meanwhile, end sessions of users who have left the group."""
        while self.sessions.has_invited():
            await asyncio.sleep(LOOK_EVERY_S)
            if uids := self.sessions.by_group():
                self.sessions.end_of_users(await self._former(uids))
        self._looking = None
        self._stop()

    async def _former(self, uids: set[int]) -> set[int]:
        """Those of them who are not in the group that administers."""
        group = self._settings().admin_group
        return await asyncio.to_thread(lambda: {uid for uid in uids if not self._is_member(uid, group)})

    def _stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._open is not None:
            sock, accepting = self._open
            self._open = None
            accepting.close()
            sock.close()


def is_of_page(path: str) -> bool:
    """Whether a path is one of the page's."""
    return path == HOME.rstrip("/") or path.startswith(HOME)


def page_headers(path: str) -> list[tuple[bytes, bytes]]:
    """Those of an answer below `HOME`. What belongs to a session is not kept anywhere."""
    is_kept = not path.startswith((DATA + "/", SESSIONS))
    return HEADERS if is_kept else [*HEADERS, (b"cache-control", b"no-store")]


def leave_session(scope: Scope) -> None:
    """A request has been answered."""
    session: Session | None = scope["extensions"].pop(SESSION, None)
    if session is not None:
        session.leave()


def cookie_name(scope: Scope) -> str:
    """Another one on each port, because browsers have one jar for all ports of a name."""
    port = connection_of(scope).transport.get_extra_info("sockname")[1]
    return f"tenantd_{port}"


def _cookies(request: Request) -> SimpleCookie:
    text = request.headers.get("cookie", "")
    try:
        return SimpleCookie(text if len(text) <= MOST_COOKIE_CHARACTERS else "")
    except CookieError:
        return SimpleCookie()
