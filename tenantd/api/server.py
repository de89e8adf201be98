"""The ASGI application and the server that runs it on our own socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenantd.api.acceptor import Acceptor
from tenantd.api.admin.log_routes import log_operations
from tenantd.api.admin.routes import Admin
from tenantd.api.anthropic.routes import Anthropic
from tenantd.api.body import give_back_answer, give_back_body
from tenantd.api.connection import Caller, Connection, connection_of
from tenantd.api.connections import Connections
from tenantd.api.doors import Door
from tenantd.api.embeddings.routes import Embeddings
from tenantd.api.health import health_operations
from tenantd.api.identity import actor_of, asking, has_right_key, owner_of
from tenantd.api.listener import Listening
from tenantd.api.openai.routes import OpenAI
from tenantd.api.openai.streaming import SEND
from tenantd.api.openapi import Description
from tenantd.api.operations import Operation, serve
from tenantd.api.origins import answer_options, check_host, headers_for_pages
from tenantd.api.refusals import on_disconnect, on_error, on_http_exception, on_unexpected
from tenantd.api.replies import budget_headers, rate_headers
from tenantd.api.responses.routes import Responses
from tenantd.api.spellings import Spellings
from tenantd.api.tcp import TcpListener, renew_certificates
from tenantd.api.tenant.routes import TenantsOwn
from tenantd.api.text.routes import TextHelpers
from tenantd.api.web.pages import Pages, is_of_page, leave_session, page_headers
from tenantd.api.web.routes import invitation_operations, page_operations
from tenantd.config import ServerConfig
from tenantd.errors import TenantdError
from tenantd.events import Events
from tenantd.serving.service import Service
from tenantd.tenancy.directory import Directory
from tenantd.watching.metrics import Meter
from tenantd.watching.request_log import RequestLog
from tenantd.watching.webhook import Webhook

log = logging.getLogger(__name__)

NEVER_S = 1 << 30
"""Turns off uvicorn's idle timeout; each phase of a connection has a timeout of its own."""
GOODBYE_S = 5
"""How long complete answers may take to be sent after the drain."""


def make_routes(served: list[Operation], service: Service) -> Starlette:
    """The application with all routes."""
    app = Starlette(
        exception_handlers={
            TenantdError: on_error,
            ClientDisconnect: on_disconnect,
            HTTPException: on_http_exception,
            Exception: on_unexpected,
        },
    )
    app.router.redirect_slashes = False
    serve(app, served, service)
    return app


def operations(
    service: Service, meter: Meter, webhook: Webhook, request_log: RequestLog, pages: Pages
) -> list[Operation]:
    """All that is served to programs, and its description."""
    openai = OpenAI(service)
    own = [
        *openai.operations(),
        *Responses(service, openai).operations(),
        *Anthropic(service, openai).operations(),
        *Embeddings(service).operations(),
        *TextHelpers(service).operations(),
        *TenantsOwn(service).operations(),
        *Admin(service, meter, webhook).operations(),
        *invitation_operations(service, pages),
        *log_operations(request_log),
        *health_operations(service),
    ]
    return Description(own).operations


def make_app(service: Service, meter: Meter, webhook: Webhook, request_log: RequestLog, pages: Pages) -> ASGIApp:
    """The routes, with the headers and clean-up that every answer needs."""
    for_programs = operations(service, meter, webhook, request_log, pages)
    for_the_page = page_operations(service, pages, for_programs)
    app, spellings = make_routes(for_programs, service), Spellings([*for_programs, *for_the_page])
    serve(app, for_the_page, service, pages.identify)

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        scope["path"] = path = spellings.usual(scope["path"])
        await connection_of(scope).connections_table.starts.wait(owner_of(scope, service.directory))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(page_headers(path)) if is_of_page(path) else headers_for_pages(request)
                if (tenant := asking(scope)) is not None:
                    headers += rate_headers(service.rates(tenant))
                    if tenant.id is not None:
                        key_id = actor_of(scope).key_id
                        headers += budget_headers(service.budgets.states(tenant.id, key_id), key_id)
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        scope["extensions"][SEND] = send
        answer: ASGIApp = app
        try:
            check_host(request)
            pages.check(request)
            if scope["method"] == "OPTIONS" and (methods := spellings.methods(path)):
                is_own = is_of_page(path) or spellings.administers(path)
                answer = answer_options(request, methods, administers=is_own)
        except TenantdError as e:
            answer = await on_error(request, e)
        try:
            await answer(scope, receive, with_headers)
        finally:
            give_back_body(scope)
            give_back_answer(scope)
            leave_session(scope)

    return outermost


class Server:
    """uvicorn on our own listeners, without its signal handlers: the daemon decides when to stop."""

    def __init__(
        self,
        app: ASGIApp,
        listeners: Sequence[Listening],
        settings: Callable[[], ServerConfig],
        events: Events,
        directory: Directory,
        pages: Pages,
    ) -> None:
        """`listeners` are those that `open_listeners` has opened: the Unix socket first. `settings` is called each
        time, so that reloaded settings apply to open connections too. Refusals are announced in `events`. Keys are
        looked up in `directory`, sessions in `pages`.
        """
        self._pages = pages
        self._listeners = listeners
        self._settings = settings
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=NEVER_S,
            timeout_graceful_shutdown=GOODBYE_S,
        )

        def is_known(scope: Scope) -> bool:
            return has_right_key(scope, directory) or pages.has_session(scope)

        self.connections = Connections(settings, events, is_known)
        self._server = _Uvicorn(config, self.connections, listeners, settings, pages)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start serving."""
        assert self._task is None, "started once"
        self._task = asyncio.create_task(self._server.serve(sockets=[one.sock for one in self._listeners]))
        up = asyncio.create_task(self._server.is_up.wait())
        await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            await self._task

    async def ended(self) -> None:
        """Wait until the server stops. Raises the error that stopped it."""
        assert self._task is not None, "wait after start"
        await asyncio.shield(self._task)

    async def stop(self, timeout_s: float = GOODBYE_S) -> None:
        """Stop accepting connections, allow `timeout_s` to send answers, then close. Safe to call twice."""
        self._server.config.timeout_graceful_shutdown = timeout_s  # type: ignore[assignment]  # any number of seconds
        self._server.should_exit = True
        self._pages.close()
        if self._task is not None:
            await self._task
        for listener in self._listeners:
            listener.close()

    async def renew_certificates(self) -> None:
        """Read the certificates of all listeners again. One that cannot be used is logged, and changes nothing."""
        await asyncio.to_thread(renew_certificates, self._listeners, self._settings().listen)


class _Uvicorn(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        listeners: Sequence[Listening],
        settings: Callable[[], ServerConfig],
        pages: Pages,
    ) -> None:
        super().__init__(config)
        self._pages = pages
        self.is_up = asyncio.Event()
        self._connections = connections
        self._listeners = listeners
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replaces uvicorn's, which would listen again and accept everybody."""

        def make(door: Door, caller: Caller) -> Connection:
            return Connection(self.config, self.server_state, self._connections, door, caller)

        acceptors = []
        for number, one in enumerate(self._listeners):
            door = Door(self._settings, number - 1 if number else None)
            certificate = one.certificate if isinstance(one, TcpListener) else None
            acceptors.append(Acceptor(one.sock, door, self._connections, make, certificate))

        def serve_also(sock: socket.socket, door: Door) -> Acceptor:
            acceptor = Acceptor(sock, door, self._connections, make)
            acceptor.start()
            return acceptor

        self._pages.listen_with(serve_also)
        self.servers = acceptors  # type: ignore[assignment]
        for acceptor in acceptors:
            acceptor.start()
        self._connections.start()
        self.started = True
        self.is_up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, without the check for timeouts afterwards."""
        await super().shutdown(sockets)
        self._connections.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
