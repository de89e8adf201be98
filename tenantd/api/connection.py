"""uvicorn's HTTP protocol with what it does not show: the kernel's word on who connected, and flow control.

Every request's scope carries its connection in `scope["extensions"]`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Any, ClassVar, Final, NamedTuple

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tenantd.api.replies import encode_error, new_request_id
from tenantd.errors import InvalidRequest

log = logging.getLogger(__name__)

EXTENSION: Final = "tenantd.connection"
MAX_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers; the parser itself would collect them without end."""
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class Peer(NamedTuple):
    """The process at the other end, as the kernel knows it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Connection(HttpToolsProtocol):
    """One client connection. `malformed`: how often any of them was sent what is not HTTP."""

    malformed: ClassVar[int] = 0
    peer: Peer | None = None
    _head_bytes = 0  # received since anything but a head, or what may follow a body, was
    _is_head = True  # all of the chunk that is being parsed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = _peer(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        self._is_head = True
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._is_head else 0
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"the request's line and headers are over {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        self._is_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._is_head = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_head = False
        super().on_message_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP is answered in the shape of every other error, and counted: anybody could fill the log."""
        Connection.malformed += 1
        log.debug("not HTTP from %s: %s", self.peer, msg)
        body = encode_error(InvalidRequest(msg))
        head = (
            STATUS_LINE[400] + b"content-type: application/json\r\nx-request-id: " + new_request_id().encode() + b"\r\n"
        )
        self.transport.write(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        self.transport.close()

    @property
    def write_paused(self) -> bool:
        """The client reads more slowly than we write: the next send waits."""
        return self.flow.write_paused

    def abort(self) -> None:
        """Close at once and drop what is buffered."""
        self.transport.abort()


def connection_of(scope: Scope) -> Connection:
    """The connection a request came over."""
    connection = scope["extensions"][EXTENSION]
    assert isinstance(connection, Connection)
    return connection


def _peer(sock: Any) -> Peer | None:
    """None when the socket is no Unix socket."""
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid, gid)
