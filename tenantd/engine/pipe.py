"""The engine's end of the socket to the daemon: whole frames, blocking only if there is nothing to compute."""

from __future__ import annotations

import select
import socket
from typing import Final

from tenantd.wire.frames import decode_inbox, frame, split_frames
from tenantd.wire.messages import Command, Event

READ_BYTES: Final = 1 << 18
"""Maximum to read and decode between two steps: some milliseconds, however much has arrived."""


class Closed(Exception):
    """The daemon has closed its end."""


class Pipe:
    """Frames over a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def receive(self, wait_s: float | None) -> list[Command]:
        """Commands that have arrived, after waiting up to `wait_s` (None: no limit) for the first.

        Reads at most READ_BYTES; the next calls return the rest. Raises Closed.
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
        """Send an event. Blocks while the daemon does not read, so that the engine does not run ahead. Raises
        Closed."""
        try:
            self._sock.sendall(frame(event))
        except ConnectionError as e:
            raise Closed from e

    def close(self) -> None:
        self._sock.close()
