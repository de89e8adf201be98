"""The engine's end of the socket to the daemon: whole frames, blocking only when there is nothing to compute."""

from __future__ import annotations

import select
import socket
from typing import Final

from tenantd.wire.frames import decode_inbox, frame, split_frames
from tenantd.wire.messages import Command, Event

READ_BYTES: Final = 1 << 18
"""Most that is read, and decoded, between two steps: some milliseconds, however much more has arrived."""


class Closed(Exception):
    """The daemon closed its end."""


class Pipe:
    """Frames over a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def receive(self, wait_s: float | None) -> list[Command]:
        """Commands that have arrived, after waiting up to `wait_s` (None: for ever) for one.

        Those of READ_BYTES at most; the rest comes with the next calls. Raises Closed.
        """
        commands: list[Command] = []
        select.select([self._sock], [], [], wait_s)
        left_bytes = READ_BYTES
        while left_bytes > 0:
            try:
                data = self._sock.recv(left_bytes, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionError as e:
                raise Closed from e
            if not data:
                raise Closed
            left_bytes -= len(data)
            self._buffer += data
            for body in split_frames(self._buffer):
                commands += decode_inbox(body).commands
        return commands

    def send(self, event: Event) -> None:
        """Blocks while the daemon does not read: the engine must not run ahead of who pays. Raises Closed."""
        try:
            self._sock.sendall(frame(event))
        except ConnectionError as e:
            raise Closed from e

    def close(self) -> None:
        self._sock.close()
