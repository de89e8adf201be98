"""The engine's end of the socket to the daemon: whole frames, blocking only if there is nothing to compute.

What a step did is encoded and written by a thread while the next pass runs. It needs the interpreter, which the pass
does not, so it begins no sooner than that.
"""

from __future__ import annotations

import contextlib
import select
import socket
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Final

from tenantd.wire.frames import decode_inbox, frame, split_frames
from tenantd.wire.messages import Command, Event

READ_BYTES: Final = 1 << 18
"""Maximum to read and decode between two steps: some milliseconds, however much has arrived."""


class Closed(Exception):
    """The daemon has closed its end."""


class Pipe:
    """Frames over a stream socket. One event at a time is on its way."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._kept: Event | None = None  # sent, and neither written nor given to the thread
        self._writing = Lock()  # held while the thread has one
        self._given: SimpleQueue[Event | None] = SimpleQueue()
        self._failure: Exception | None = None
        self._writer = Thread(target=self._write_given, name="pipe", daemon=True)
        self._writer.start()

    def receive(self, wait_s: float | None) -> list[Command]:
        """Commands that have arrived, after waiting up to `wait_s` (None: no limit) for the first.

        Reads at most READ_BYTES; the next calls return the rest. Raises Closed.
        """
        if wait_s != 0:
            self.flush()
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
                raise self._failure or Closed
            left_bytes -= len(data)
            self._buffer += data
            for body in split_frames(self._buffer):
                commands += decode_inbox(body).commands
        return commands

    def send(self, event: Event) -> None:
        """Have an event written: by the thread after `write`, at the latest before the next one is sent.

        Waits until the one before it is written, so that the engine does not run ahead of a daemon that does not read.
        Raises Closed.
        """
        self.flush()
        self._kept = event

    def write(self) -> None:
        """Let the thread write what was sent, as soon as it gets the interpreter. Does not wait."""
        if self._kept is not None:
            event, self._kept = self._kept, None
            self._writing.acquire()
            self._given.put(event)

    def flush(self) -> None:
        """Write what was sent, or wait for the thread that does. Raises Closed."""
        if self._kept is not None:
            event, self._kept = self._kept, None
            self._write(event)
        with self._writing:
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Write what was sent, and close the socket."""
        self.write()
        self._given.put(None)
        self._writer.join()
        self._sock.close()

    def _write_given(self) -> None:
        while (event := self._given.get()) is not None:
            self._write(event)
            self._writing.release()

    def _write(self, event: Event) -> None:
        try:
            self._sock.sendall(frame(event))
        except Exception as e:  # it is raised where the next event is sent, or commands are waited for
            self._failure = Closed() if isinstance(e, ConnectionError) else e
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)
