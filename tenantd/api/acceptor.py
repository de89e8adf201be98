"""Accepts connections from the listening socket. Refuses them when there are too many, before they cost anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import Final

from tenantd.api import connection as connecting
from tenantd.api.connection import NOBODY, Connection, Peer
from tenantd.api.connections import Connections
from tenantd.api.replies import encode_error
from tenantd.errors import TooManyConnections
from tenantd.events import PathKind, Refused
from tenantd.request_ids import new_request_id

log = logging.getLogger(__name__)

AT_ONCE: Final = 64
"""Connections to accept before returning to the event loop."""
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
REST_S: Final = 0.1
"""Pause in accepting when descriptors run out. The socket stays readable, so the loop would spin without it."""
LOG_INTERVAL_S: Final = 60.0


class Acceptor:
    """Does for uvicorn what an asyncio server would do, on a socket that already listens."""

    def __init__(
        self, sock: socket.socket, connections: Connections, make: Callable[[Peer | None], Connection]
    ) -> None:
        """`make` creates the protocol of one connection."""
        self._sock = sock
        self._connections = connections
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._said_s = float("-inf")

    def start(self) -> None:
        """Start accepting connections."""
        self._loop.add_reader(self._sock, self._accept)
        self._connections.start()

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
        self._connections.stop()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in SCARCE:
                    self._rest(e)
                    return
                continue  # this client has already gone
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        peer = connecting.peer_of(sock)
        try:
            only_administers = self._connections.admit(NOBODY if peer is None else peer.uid)
        except TooManyConnections as e:
            uid = None if peer is None else peer.uid
            self._connections.events.announce(
                Refused(cause=e.code, http_status=e.http_status, path=PathKind.NONE, uid=uid)
            )
            _refuse(sock, e)
            return
        connection = self._make(peer)
        connection.only_administers = only_administers
        self._connections.add(connection)
        task = self._loop.create_task(self._open(connection, sock))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: Connection, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as e:
            self._connections.remove(connection)
            sock.close()
            log.info("a connection was lost while it was being accepted: %s", e)

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


def _refuse(sock: socket.socket, error: TooManyConnections) -> None:
    """Send the reason, if the client reads it, and close."""
    body = encode_error(error)
    head = (
        f"HTTP/1.1 {error.http_status} Too Many Requests\r\ncontent-type: application/json\r\n"
        f"x-request-id: {new_request_id()}\r\nretry-after: {error.retry_after_s}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(head.encode() + body)
