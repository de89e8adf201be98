"""uvicorn's HTTP protocol, extended by the peer's identity, limits on heads and pipelining, and timeouts.

`scope["extensions"]` of every request holds its connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tenantd.api.connections import Connections
from tenantd.api.replies import encode_error
from tenantd.errors import HeadTimeout, InvalidRequest, TenantdError
from tenantd.events import MALFORMED, PathKind, Refused
from tenantd.request_ids import new_request_id

log = logging.getLogger(__name__)

EXTENSION: Final = "tenantd.connection"
MAX_HEAD_BYTES: Final = 32 * 1024
"""Maximum size of request line and headers; the parser itself has no limit."""
MAX_PIECE_BYTES: Final = 8 * 1024
"""How much the parser gets at once. A head that begins in the same piece as other bytes can be longer by this."""
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 16
"""Requests of a connection that wait for the previous one. Even a short one costs memory for its state."""
LINGER_S: Final = 5.0
"""How long to read and drop the rest of a body whose request has already been answered."""
NOBODY: Final = -1
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class Peer(NamedTuple):
    """The process at the other end, according to the kernel (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Outlet:
    """What answers are written to. A client that has left is no error: what is written to it is dropped, until the
    loop reports the loss."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.close = transport.close
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():  # a closed transport raises
            self._transport.write(data)


class Phase(Enum):
    """What a connection is doing; each phase has its own timeout."""

    HEAD = auto()  # waiting for a head, or for the rest of it
    BUSY = auto()  # reading or answering a request, which has limits of its own
    LINGER = auto()  # answered, but the request's body is incomplete
    IDLE = auto()  # answered, and nothing has arrived since


class Connection(HttpToolsProtocol):
    """One client connection."""

    def __init__(self, config: Config, state: ServerState, connections: Connections, peer: Peer | None) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self.connections_table = connections
        self.peer = peer
        self.uid = NOBODY if peer is None else peer.uid
        self.only_administers = False  # beyond its user's limits
        self.key_id = ""  # of the last request, if it had a key
        self.is_refused = False  # answered with an error that concerns no single request, and closing
        self._is_cut = False
        self._answering: RequestResponseCycle | None = None  # the first of the pipeline
        self._phase = Phase.HEAD
        self._deadline_s = float("inf")
        self._head_bytes = 0  # received since the last byte that belonged to a body
        self._is_head = True  # the chunk being parsed holds nothing but head
        self._is_whole = True  # the last request with a complete head has a complete body
        self._unsent_bytes = 0  # at the last check
        self._unsent_since_s = 0.0

    # -- what uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.server = None  # otherwise the socket's path becomes the host of requests without one
        if self._is_cut:
            transport.abort()
        else:
            self._enter(Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections_table.remove(self)
        self._leave_answer()  # which, in a pipeline, is not the last request, the one that uvicorn looks at
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        start = 0
        while start < len(data) and not self.transport.is_closing():
            # The parser does not say how long a head is. So it gets no more than a head may still have: what does not
            # complete the head shows that the head is too long.
            piece = data[start : start + min(MAX_HEAD_BYTES - self._head_bytes, MAX_PIECE_BYTES)]
            start += len(piece)
            self._is_head = True
            super().data_received(piece)
            self._head_bytes = self._head_bytes + len(piece) if self._is_head else 0
            if self._head_bytes >= MAX_HEAD_BYTES:
                self.send_400_response(f"request line and headers are longer than {MAX_HEAD_BYTES} bytes")
        if self._phase is Phase.HEAD and not self.transport.is_closing():
            self.connections_table.note_partial_head(self, self._head_bytes)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")  # the parser stops, and the answer is 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_head = False
        self._is_whole = False
        if len(self.pipeline) >= MAX_PIPELINED:
            self.abort()
            raise ValueError("too many requests at once")
        super().on_headers_complete()
        self.cycle.transport = Outlet(self.transport)  # type: ignore[assignment]
        if not self.pipeline:
            self._answering = self.cycle
        if self._phase is not Phase.BUSY:
            self._enter(Phase.BUSY)

    def on_body(self, body: bytes) -> None:
        self._is_head = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_head = False
        self._is_whole = True
        super().on_message_complete()
        if self._phase is Phase.LINGER:
            self._enter(Phase.IDLE)

    def on_response_complete(self) -> None:
        if had_next := bool(self.pipeline):
            self._answering = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing() or had_next:
            return
        if not self._is_whole:
            self._enter(Phase.LINGER)
        else:
            self._enter(Phase.HEAD if self._head_bytes else Phase.IDLE)
        if not self._head_bytes:
            self._forget_request()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed input like any other error. Count it instead of logging it: anybody could fill the log."""
        log.debug("not HTTP from %s: %s", self.peer, msg)
        self._answer_and_close(InvalidRequest(msg), MALFORMED)

    # -- called by other modules

    @property
    def write_paused(self) -> bool:
        """Whether the client reads more slowly than we write, so that the next send has to wait."""
        return self.flow.write_paused

    def abort(self) -> None:
        """Close immediately and drop what is buffered. The request being answered sees a disconnected client."""
        self._is_cut = True
        self._leave_answer()  # so that it writes nothing before the loop reports the loss
        if self.transport is not None:
            self.transport.abort()

    def check_time(self, now_s: float) -> None:
        """Close the connection if its phase has timed out, or if the client has read nothing for too long."""
        if self.transport is None:
            return  # still being accepted
        if now_s >= self._deadline_s:
            self._deadline_s = float("inf")
            if self._phase is Phase.HEAD and self._head_bytes:
                timeout_s = self.connections_table.settings().head_timeout_s
                error = HeadTimeout(f"request line and headers took more than {timeout_s:g} s")
                self._answer_and_close(error, error.code)
            else:
                self.transport.close()
        unsent_bytes = self.transport.get_write_buffer_size()
        if not unsent_bytes or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._unsent_since_s = unsent_bytes, now_s
        elif now_s - self._unsent_since_s > self.connections_table.settings().write_timeout_s:
            self.abort()

    # -- own

    def _leave_answer(self) -> None:
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        if phase is Phase.BUSY:
            self._deadline_s = float("inf")
            self.connections_table.note_partial_head(self, 0)
            self.connections_table.busy(self)
            return
        server = self.connections_table.settings()
        allowed_s = {Phase.HEAD: server.head_timeout_s, Phase.IDLE: server.idle_timeout_s}.get(phase, LINGER_S)
        self._deadline_s = self.loop.time() + allowed_s
        self.connections_table.unbusy(self)

    def _forget_request(self) -> None:
        """Free what the last request sent; an idle connection does not need it."""
        self.headers = []
        self.url = b""
        self.cycle.scope = self.scope = {"type": "http", "method": self.cycle.scope["method"]}  # type: ignore[typeddict-item]
        self.cycle.body = bytearray()

    def _answer_and_close(self, error: TenantdError, cause: str) -> None:
        if self.transport.is_closing():
            return
        self.is_refused = True
        uid = None if self.peer is None else self.peer.uid
        self.connections_table.events.announce(
            Refused(cause=cause, http_status=error.http_status, path=PathKind.NONE, uid=uid)
        )
        body = encode_error(error)
        head = STATUS_LINE[error.http_status] + b"content-type: application/json\r\nx-request-id: %s\r\n" % (
            new_request_id().encode()
        )
        self.transport.write(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        self.transport.close()


def connection_of(scope: Scope) -> Connection:
    """The connection that a request came in on."""
    connection = scope["extensions"][EXTENSION]
    assert isinstance(connection, Connection)
    return connection


def peer_of(sock: Any) -> Peer | None:
    """The peer of a Unix socket; None for other sockets."""
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid, gid)
