"""The daemon's end of the socket to the engine process: framed, never blocking.

Commands are gathered and written once per turn of the event loop, so the engine finds them in one frame. Only little
waits here, so that the next command is not delayed by much: without `has_room`, requests stay with the sender. Anything
that is not a frame of the protocol breaks the connection; its owner then replaces the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

import msgspec

from tenantd.wire.frames import FrameTooLarge, decode_event, frame, split_frames
from tenantd.wire.messages import Allow, Cancel, Check, Command, DropSampling, Event, Inbox, SetSampling, Submit

BATCH_BYTES: Final = 64 * 1024
"""A frame is closed when its commands reach this size; one large command may exceed it."""
ROOM_BYTES: Final = 64 * 1024
"""There is no room once this much is gathered, or waits to be written in addition to the kernel's buffer."""
MAX_COMMAND_BYTES: Final = 32 * 1024 * 1024
"""Maximum size of a command by `bytes_at_most`; even after a full batch it stays within the limit on frames."""

_TOKEN_BYTES: Final = 5  # a msgpack integer under 2**32
_BIAS_BYTES: Final = 14  # an integer and a double
_SMALL_BYTES: Final = 64
_REST_BYTES: Final = 512


def bytes_at_most(command: Command) -> int:
    """An upper bound of the encoded size, without encoding."""
    match command:
        case Submit():
            tokens = len(command.prompt) + len(command.marks) + max(len(command.generated), command.max_tokens)
            others = _SMALL_BYTES * len(command.images) + 4 * len(command.adapter)
            return _TOKEN_BYTES * (tokens + len(command.texts)) + others + _REST_BYTES
        case SetSampling(_, sampling):
            return _BIAS_BYTES * len(sampling.logit_bias) + 4 * len(sampling.grammar) + 2 * _REST_BYTES
        case Check():
            return _REST_BYTES + sum(4 * len(adapter) for adapter in command.adapters)
        case Allow() | Cancel() | DropSampling():
            return _SMALL_BYTES
    return _REST_BYTES


class EngineLink(asyncio.Protocol):
    """Connection to one engine process. `lost` resolves when it ends: to "" after a clean end, else to the reason."""

    def __init__(self, on_event: Callable[[Event], None], on_room: Callable[[], None] = lambda: None) -> None:
        """`on_event` is called for each event in order, `on_room` when there is room again; neither after `close`."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_event = on_event
        self._on_room = on_room
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._commands: list[Command] = []
        self._gathered_bytes = 0  # by `bytes_at_most`
        self._is_full = False  # the engine reads more slowly than we write
        self._flush_is_due = False
        self._is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are of no asyncio class
        self._transport.set_write_buffer_limits(high=ROOM_BYTES, low=ROOM_BYTES // 2)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if not self._is_closed:
            self._on_room()

    @property
    def has_room(self) -> bool:
        """Whether one more command can be sent, however large."""
        return not (self._is_closed or self._is_full) and self._gathered_bytes < ROOM_BYTES

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        try:
            for body in split_frames(buffer):
                event = decode_event(body)
                if self._is_closed:
                    return
                self._on_event(event)
        except (FrameTooLarge, msgspec.DecodeError) as e:
            self.close(f"it sent an invalid message: {e}")

    def connection_lost(self, exc: Exception | None) -> None:
        # A process that dies with unread commands resets the connection; how it died is more informative.
        is_its_end = exc is None or isinstance(exc, ConnectionError)
        self.close("" if is_its_end else f"its connection broke: {exc!r}")

    def send(self, command: Command) -> None:
        """Queue a command, even without room. Commands of one loop turn travel together. No effect once closed."""
        if self._is_closed:
            return
        self._commands.append(command)
        self._gathered_bytes += bytes_at_most(command)
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._is_closed:
            return
        assert self._transport is not None, "commands are sent over a connection"
        commands, self._commands = self._commands, []
        was_full, self._gathered_bytes = self._gathered_bytes >= ROOM_BYTES, 0
        batch: list[Command] = []
        size_bytes = 0
        for command in commands:
            batch.append(command)
            size_bytes += bytes_at_most(command)
            if size_bytes >= BATCH_BYTES:
                self._transport.write(frame(Inbox(batch)))
                batch, size_bytes = [], 0
        if batch:
            self._transport.write(frame(Inbox(batch)))
        if was_full and self.has_room:
            self._on_room()

    def close(self, reason: str = "") -> None:
        """End the connection. The first reason is kept."""
        self._is_closed = True
        self._commands.clear()
        if self._transport is not None:
            self._transport.abort()
        if not self.lost.done():
            self.lost.set_result(reason)
