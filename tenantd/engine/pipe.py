"""The engine's end of the socket to the daemon: whole frames, blocking only when there is nothing to compute."""

from __future__ import annotations

import select
import socket
from typing import Final

from tenantd.engine.protocol import Command, Event, decode_inbox, frame, split_frames

READ_BYTES: Final = 1 << 18


class Closed(Exception):
    """The daemon closed its end."""


class Pipe:
    """Frames over a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def receive(self, wait_s: float | None) -> list[Command]:
        """All commands that have arrived, after waiting up to `wait_s` (None: for ever) for one. Raises Closed."""
        commands: list[Command] = []
        select.select([self._sock], [], [], wait_s)
        while True:
            try:
                data = self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return commands
            except ConnectionError as e:
                raise Closed from e
            if not data:
                raise Closed
            self._buffer += data
            for body in split_frames(self._buffer):
                commands += decode_inbox(body).commands

    def send(self, event: Event) -> None:
        """Blocks while the daemon does not read: the engine must not run ahead of who pays. Raises Closed."""
        try:
            self._sock.sendall(frame(event))
        except ConnectionError as e:
            raise Closed from e

    def close(self) -> None:
        self._sock.close()
