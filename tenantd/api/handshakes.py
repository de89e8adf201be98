"""Begins TLS handshakes, one at a time and in a part of the event loop's time.

A handshake takes up to some milliseconds of the event loop, and costs a client next to nothing to ask for. So a
connection first waits, without costing anything, until its client has said something. Then the sources take turns, and
after each handshake there is a pause of several times what one takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from tenantd.api.connection import Connection
from tenantd.api.doors import Source
from tenantd.api.replies import closing_answer
from tenantd.api.tls import Certificate
from tenantd.errors import InvalidRequest

PART: Final = 0.25
"""Of the event loop's time, at most."""
LEAST_PAUSE_S: Final = 0.0005
MOST_READ_BYTES: Final = 1 << 16
_TLS_HANDSHAKE: Final = 0x16
"""First byte of a TLS record of type handshake (RFC 8446, section 5.1)."""


class Handshakes:
    """Those of one listener."""

    def __init__(
        self,
        certificate: Certificate,
        begin: Callable[[Connection, socket.socket], None],
        drop: Callable[[Connection], None],
    ) -> None:
        """`begin` starts a handshake; `drop` is told of connections that get none."""
        self._certificate = certificate
        self._begin = begin
        self._drop = drop
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[Source, dict[Connection, socket.socket]] = OrderedDict()
        self._pausing: asyncio.TimerHandle | None = None

    def add(self, connection: Connection, sock: socket.socket) -> None:
        """Wait for the first bytes of a client. `Connection.abort` ends that, too."""
        connection.let_go = functools.partial(self._let_go, connection, sock)
        self._loop.add_reader(sock, self._arrived, connection, sock)

    def _arrived(self, connection: Connection, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except OSError:
            first = b""
        if first and first[0] == _TLS_HANDSHAKE:
            self._waiting.setdefault(connection.source, {})[connection] = sock
            if self._pausing is None:
                self._next()
            return
        if first:
            with contextlib.suppress(OSError):
                sock.recv(MOST_READ_BYTES)  # what is not read when it is closed would take the answer with it
                sock.send(closing_answer(InvalidRequest("this port speaks TLS; use https:// instead of http://")))
        self._let_go(connection, sock)

    def _let_go(self, connection: Connection, sock: socket.socket) -> None:
        """Forget a connection whose handshake has not begun."""
        self._loop.remove_reader(sock)
        if (own := self._waiting.get(connection.source)) is not None:
            own.pop(connection, None)
            if not own:
                del self._waiting[connection.source]
        sock.close()
        self._drop(connection)

    def _next(self) -> None:
        self._pausing = None
        if not self._waiting:
            return
        source, own = self._waiting.popitem(last=False)
        connection = next(iter(own))
        sock = own.pop(connection)
        if own:
            self._waiting[source] = own  # behind the others
        self._begin(connection, sock)
        pause_s = max(self._certificate.handshake_s / PART, LEAST_PAUSE_S)
        self._pausing = self._loop.call_later(pause_s, self._next)
