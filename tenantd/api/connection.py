"""uvicorn's HTTP protocol, extended by the peer's identity, limits on heads and pipelining, and timeouts.

`scope["extensions"]` of every request holds its connection.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple, cast

from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tenantd.api.connections import Connections
from tenantd.api.doors import Door, Source
from tenantd.api.parsing import SLICE_S, Flow
from tenantd.api.peers import Peer
from tenantd.api.peers import peer_of as peer_of
from tenantd.api.replies import closing_answer
from tenantd.api.unpaid import PATIENCE_S, RETRY_S, TooManyStrangers
from tenantd.errors import HeadTimeout, InvalidRequest, TenantdError
from tenantd.events import MALFORMED, PathKind, Refused

log = logging.getLogger(__name__)

EXTENSION: Final = "tenantd.connection"
MAX_HEAD_BYTES: Final = 32 * 1024
"""Maximum size of request line and headers; the parser itself has no limit."""
MAX_PIECE_BYTES: Final = 8 * 1024
"""How much the parser gets at once. A head that begins in the same piece as other bytes can be longer by this."""
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 16
"""Requests of a connection that wait for the previous one. Even a short one costs memory for its state."""
FREE_CHUNKS: Final = 1024
"""Chunks that a body may have however small they are: they cost as much as the request does without them."""
LEAST_CHUNK_BYTES: Final = 64
"""What the chunks of a body beyond those have to hold on average. Each costs a call, even one of a single byte."""
LINGER_S: Final = 5.0
"""How long to read and drop the rest of a body whose request has already been answered."""


class Caller(NamedTuple):
    """The other end: a process on a Unix socket, an address on TCP, and whose connections it counts to."""

    source: Source
    peer: Peer | None = None
    address: str | None = None
    administers: bool = False
    """It may administer, unless it shows a key."""

    @property
    def uid(self) -> int | None:
        return None if self.peer is None else self.peer.uid


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
    TURN = auto()  # waiting for the turn of a request without a right key
    BUSY = auto()  # reading or answering a request, which has limits of its own
    LINGER = auto()  # answered, but the request's body is incomplete
    IDLE = auto()  # answered, and nothing has arrived since


class Connection(HttpToolsProtocol):
    """One client connection."""

    def __init__(
        self, config: Config, state: ServerState, connections: Connections, door: Door, caller: Caller
    ) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self.connections_table = connections
        self.door = door
        self.peer = caller.peer
        self.administers = caller.administers
        self.address = caller.address
        self.source = caller.source
        self.let_go: Callable[[], None] | None = None  # ends it while there is no transport yet
        self.only_administers = False  # beyond its user's limits
        self.key_id = ""  # of the last request, if it had a key
        self.is_refused = False  # answered with an error that concerns no single request, and closing
        self._is_cut = False
        self._answering: RequestResponseCycle | None = None  # the first of the pipeline
        self._phase = Phase.HEAD
        self._deadline_s = float("inf")
        self._waiting_bytes = 0  # received that waits behind a request that is not yet answered
        self._head_bytes = 0  # received since the last byte that belonged to a body
        self._is_head = True  # the chunk being parsed holds nothing but head
        self._chunks = self._body_bytes = 0  # of the last request
        self._unparsed = b""  # received, and waiting for its turn from `_parsed_bytes` on
        self._parsed_bytes = 0
        self._has_begun = False  # a head, of which not all has been parsed
        self._is_whole = True  # the last request with a complete head has a complete body
        self._unsent_bytes = 0  # at the last check
        self._unsent_since_s = 0.0

    # -- what uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: Flow = Flow(transport)
        self.let_go = None
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
        is_waiting = bool(self._unparsed)  # TLS can have decrypted more before it was paused
        self._unparsed += data
        if not is_waiting and self._parse():
            self.flow.hold()
            self.connections_table.turns.wait(self.key_id or self.source, self._parse)

    def _parse(self) -> bool:
        """Parse what was received, for SLICE_S and one piece. True if some is left and has to wait for its turn."""
        until_s = time.monotonic() + SLICE_S
        while not self.transport.is_closing() and self._parsed_bytes < len(self._unparsed):
            if time.monotonic() >= until_s:
                return True
            # The parser does not say how long a head is. So it gets no more than a head may still have: what does not
            # complete the head shows that the head is too long.
            start = self._parsed_bytes
            piece = self._unparsed[start : start + min(MAX_HEAD_BYTES - self._head_bytes, MAX_PIECE_BYTES)]
            self._parsed_bytes += len(piece)
            self._is_head = True
            super().data_received(piece)
            self._head_bytes = self._head_bytes + len(piece) if self._is_head else 0
            if self._head_bytes >= MAX_HEAD_BYTES:
                self.send_400_response(f"request line and headers are longer than {MAX_HEAD_BYTES} bytes")
        parsed_bytes, self._unparsed, self._parsed_bytes = self._parsed_bytes, b"", 0
        self.flow.release()
        if self.transport.is_closing():
            return False
        if self._phase is Phase.HEAD:
            self.connections_table.note_partial_head(self, self._head_bytes)
        elif self._phase is Phase.TURN or self.pipeline:
            self._waiting_bytes += parsed_bytes
            self._note_waiting()
        return False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]
        self._chunks = self._body_bytes = 0
        self._has_begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")  # the parser stops, and the answer is 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_head = self._has_begun = False
        self._is_whole = False
        if len(self.pipeline) >= MAX_PIPELINED:
            self.abort()
            raise ValueError("too many requests at once")
        super().on_headers_complete()
        self.cycle.transport = Outlet(self.transport)  # type: ignore[assignment]
        if not self.pipeline:
            self._answering = self.cycle
        if self._phase not in (Phase.TURN, Phase.BUSY):
            self._enter(Phase.BUSY)

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > FREE_CHUNKS + self._body_bytes // LEAST_CHUNK_BYTES:
            self.send_400_response(
                f"the body's chunks are too small: after the first {FREE_CHUNKS}, send at least {LEAST_CHUNK_BYTES} "
                "bytes in each, or the body with a content-length"
            )
            raise ValueError("too many chunks")  # the parser stops

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        begin = functools.partial(super()._start_asgi_task, cycle, app)
        if self.address is None or self.connections_table.has_right_key(cast(Scope, cycle.scope)):
            begin()
            return

        def start() -> None:
            self._enter(Phase.BUSY)
            begin()

        self._enter(Phase.TURN)
        self.flow.pause_reading()
        self.connections_table.unpaid.wait(self.address, self, start)

    def on_body(self, body: bytes) -> None:
        self._is_head = False
        self._body_bytes += len(body)
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
            self._enter(Phase.HEAD if self._has_begun or self._head_bytes or self._unparsed else Phase.IDLE)
        if not self._has_begun:
            self._forget_request()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed input like any other error. Count it instead of logging it: anybody could fill the log."""
        log.debug("not HTTP from %s: %s", self.peer, msg)
        self._answer_and_close(InvalidRequest(msg), MALFORMED)

    def shutdown(self) -> None:
        """End it after the answer that is on its way. A request that waits for its turn gets none."""
        if self._phase is Phase.TURN:
            self.transport.close()
        else:
            super().shutdown()

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
        elif self.let_go is not None:
            self.let_go()

    def check_time(self, now_s: float) -> None:
        """Close the connection if its phase has timed out, or if the client has read nothing for too long."""
        if self.transport is None:  # still being accepted
            if now_s >= self._deadline_s:
                self.abort()
            return
        if now_s >= self._deadline_s:
            self._deadline_s = float("inf")
            if self._phase is Phase.TURN:
                error: TenantdError = TooManyStrangers(
                    f"requests of {self.source.name} without a valid API key have waited for {PATIENCE_S:g} s; "
                    "send fewer of them, or a valid key",
                    retry_after_s=RETRY_S,
                )
                self._answer_and_close(error, error.code)
            elif self._phase is Phase.HEAD and self._head_bytes:
                timeout_s = self.door.settings().head_timeout_s
                error = HeadTimeout(f"request line and headers took more than {timeout_s:g} s")
                self._answer_and_close(error, error.code)
            else:
                self.transport.close()
        unsent_bytes = self.transport.get_write_buffer_size()
        if not unsent_bytes or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._unsent_since_s = unsent_bytes, now_s
        elif now_s - self._unsent_since_s > self.door.settings().write_timeout_s:
            self.abort()

    def begin(self) -> None:
        """Begin to wait for a client that has yet to shake hands: as long as for a head."""
        self._deadline_s = self.loop.time() + self.door.settings().head_timeout_s

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
        server = self.door.settings()
        allowed_s = {
            Phase.HEAD: server.head_timeout_s,
            Phase.IDLE: server.idle_timeout_s,
            Phase.TURN: PATIENCE_S,
        }.get(phase, LINGER_S)
        self._deadline_s = self.loop.time() + allowed_s
        self.connections_table.unbusy(self)
        if phase is Phase.TURN:
            self._note_waiting()
        else:
            self._waiting_bytes = 0

    def _note_waiting(self) -> None:
        if self._phase is Phase.TURN:
            self.connections_table.note_partial_head(self, self._waiting_bytes)

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
        self.connections_table.events.announce(
            Refused(
                cause=cause,
                http_status=error.http_status,
                path=PathKind.NONE,
                uid=None if self.peer is None else self.peer.uid,
                address=self.address,
            )
        )
        self.transport.write(closing_answer(error))
        self.transport.close()


def connection_of(scope: Scope) -> Connection:
    """The connection that a request came in on."""
    connection = scope["extensions"][EXTENSION]
    assert isinstance(connection, Connection)
    return connection
