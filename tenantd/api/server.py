"""The ASGI application and the server that runs it on our own socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenantd import __version__
from tenantd.api.acceptor import Acceptor
from tenantd.api.admin.routes import Admin
from tenantd.api.body import give_back_body
from tenantd.api.connection import Connection, Peer
from tenantd.api.connections import Connections
from tenantd.api.health import health_operations
from tenantd.api.identity import actor_of, asking
from tenantd.api.listener import Listener
from tenantd.api.openai.routes import OpenAI
from tenantd.api.openai.streaming import SEND
from tenantd.api.openapi import Description
from tenantd.api.operations import Operation, serve
from tenantd.api.refusals import on_disconnect, on_error, on_http_exception, on_unexpected
from tenantd.api.replies import budget_headers, rate_headers
from tenantd.api.tenant.routes import TenantsOwn
from tenantd.config import ServerConfig
from tenantd.errors import TenantdError
from tenantd.events import Events
from tenantd.serving.service import Service
from tenantd.watching.metrics import Meter
from tenantd.watching.webhook import Webhook

log = logging.getLogger(__name__)

NEVER_S = 1 << 30
"""Turns off uvicorn's idle timeout; each phase of a connection has a timeout of its own."""
GOODBYE_S = 5
"""How long complete answers may take to be sent after the drain."""


def make_routes(service: Service, meter: Meter, webhook: Webhook) -> FastAPI:
    """The application with all routes."""
    app = FastAPI(
        title="tenantd",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={
            TenantdError: on_error,
            ClientDisconnect: on_disconnect,
            HTTPException: on_http_exception,
            Exception: on_unexpected,
        },
    )
    serve(app, operations(service, meter, webhook), service)
    return app


def operations(service: Service, meter: Meter, webhook: Webhook) -> list[Operation]:
    """All that is served, and its description."""
    own = [
        *OpenAI(service).operations(),
        *TenantsOwn(service).operations(),
        *Admin(service, meter, webhook).operations(),
        *health_operations(service),
    ]
    return Description(own).operations


def make_app(service: Service, meter: Meter, webhook: Webhook) -> ASGIApp:
    """The routes, with the headers and clean-up that every answer needs."""
    app = make_routes(service, meter, webhook)

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_rates(message: Message) -> None:
            if message["type"] == "http.response.start" and (tenant := asking(scope)) is not None:
                headers = rate_headers(service.rates(tenant))
                if tenant.id is not None:
                    key_id = actor_of(scope).key_id
                    headers += budget_headers(service.budgets.states(tenant.id, key_id), key_id)
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        scope["extensions"][SEND] = send
        try:
            await app(scope, receive, with_rates)
        finally:
            give_back_body(scope)

    return outermost


class Server:
    """uvicorn on our own listener, without its signal handlers: the daemon decides when to stop."""

    def __init__(self, app: ASGIApp, listener: Listener, settings: Callable[[], ServerConfig], events: Events) -> None:
        """`settings` is called each time, so that reloaded settings apply to open connections too.

        Refusals are announced in `events`.
        """
        self._listener = listener
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
        self._server = _Uvicorn(config, Connections(settings, events))
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start serving."""
        assert self._task is None, "started once"
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener.sock]))
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
        if self._task is not None:
            await self._task
        self._listener.close()


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()
        self._connections = connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replaces uvicorn's, which would listen again and accept everybody."""

        def make(peer: Peer | None) -> Connection:
            return Connection(self.config, self.server_state, self._connections, peer)

        self.servers = [Acceptor(sock, self._connections, make) for sock in sockets or []]  # type: ignore[misc]
        for server in self.servers:
            server.start()  # type: ignore[attr-defined]
        self.started = True
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
