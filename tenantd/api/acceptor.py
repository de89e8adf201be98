"""Accepts connections from a listening socket. Refuses them when there are too many, before they cost anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

from tenantd.api import connection as connecting
from tenantd.api.connection import Caller, Connection
from tenantd.api.connections import Connections
from tenantd.api.doors import Door, address_of
from tenantd.api.handshakes import Handshakes
from tenantd.api.peers import NOBODY
from tenantd.api.replies import closing_answer
from tenantd.api.tls import Certificate
from tenantd.errors import TooManyConnections
from tenantd.events import MALFORMED, PathKind, Refused

log = logging.getLogger(__name__)

AT_ONCE: Final = 64
"""Connections to accept before returning to the event loop."""
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
REST_S: Final = 0.1
"""Pause in accepting when descriptors run out. The socket stays readable, so the loop would spin without it."""
LOG_INTERVAL_S: Final = 60.0
GOODBYE_S: Final = 5.0
"""How long a client may take to agree to the end of a TLS connection."""


class Acceptor:
    """Does for uvicorn what an asyncio server would do, on a socket that already listens."""

    def __init__(
        self,
        sock: socket.socket,
        door: Door,
        connections: Connections,
        make: Callable[[Door, Caller], Connection],
        certificate: Certificate | None = None,
    ) -> None:
        """`make` creates the protocol of one connection. With `certificate` it speaks TLS."""
        self._sock = sock
        self._door = door
        self._connections = connections
        self._make = make
        self._certificate = certificate
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._said_s = float("-inf")
        self._handshakes: Handshakes | None = None
        if certificate is not None:
            self._handshakes = Handshakes(certificate, self._begin, connections.remove)

    def start(self) -> None:
        """Start accepting connections."""
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Stop accepting. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._sock)
        if self._resting is not None:
            self._resting.cancel()

    async def wait_closed(self) -> None:
        """Returns at once; there is nothing to wait for."""

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, name = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in SCARCE:
                    self._rest(e)
                    return
                continue  # this client has already gone
            self._take(sock, name)

    def _take(self, sock: socket.socket, name: Any) -> None:
        sock.setblocking(False)
        caller = self._caller(sock, name)
        try:
            only_administers = self._connections.admit(self._door, caller.source, administers=caller.administers)
        except TooManyConnections as e:
            self._announce(e.code, e.http_status, caller)
            self._refuse(sock, e)
            return
        connection = self._make(self._door, caller)
        connection.only_administers = only_administers
        self._connections.add(connection)
        if self._handshakes is None:
            self._begin(connection, sock)
        else:
            connection.begin()
            self._handshakes.add(connection, sock)

    def _caller(self, sock: socket.socket, name: Any) -> Caller:
        if self._door.listen is None:
            peer = connecting.peer_of(sock)
            if peer is None:
                return Caller(self._door.user(NOBODY))
            return Caller(
                self._door.user(peer.uid), peer, administers=self._connections.administrators.include(peer, sock)
            )
        with contextlib.suppress(OSError):  # it has gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that is switched off says nothing
        address = address_of(name)
        return Caller(self._door.address(address), address=address)

    def _begin(self, connection: Connection, sock: socket.socket) -> None:
        connection.let_go = functools.partial(_hang_up, sock)
        task = self._loop.create_task(self._open(connection, sock))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: Connection, sock: socket.socket) -> None:
        secured: dict[str, Any] = {}
        if self._certificate is not None:
            secured = {
                "ssl": self._certificate.context,
                "ssl_handshake_timeout": self._door.settings().head_timeout_s,
                "ssl_shutdown_timeout": GOODBYE_S,
            }
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock, **secured)
        except OSError as e:
            self._connections.remove(connection)
            sock.close()
            log.debug("a connection was lost while it was being accepted: %s", e)
            if isinstance(e, ssl.SSLError):
                self._announce(MALFORMED, 400, Caller(connection.source, address=connection.address))

    def _announce(self, cause: str, http_status: int, caller: Caller) -> None:
        self._connections.events.announce(
            Refused(cause=cause, http_status=http_status, path=PathKind.NONE, uid=caller.uid, address=caller.address)
        )

    def _rest(self, error: OSError) -> None:
        self._connections.make_room()
        if time.monotonic() - self._said_s > LOG_INTERVAL_S:
            self._said_s = time.monotonic()
            log.warning("cannot accept connections: %s; raise the limit (ulimit -n, LimitNOFILE=)", error.strerror)
        self._loop.remove_reader(self._sock)
        self._resting = self._loop.call_later(REST_S, self._go_on)

    def _go_on(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._sock, self._accept)

    def _refuse(self, sock: socket.socket, error: TooManyConnections) -> None:
        """Send the reason, if the client reads it, and close. With TLS there is none to send it in."""
        with sock, contextlib.suppress(OSError):
            if self._certificate is None:
                sock.send(closing_answer(error))


def _hang_up(sock: socket.socket) -> None:
    """End a connection whose transport the loop is about to make; it will notice."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
