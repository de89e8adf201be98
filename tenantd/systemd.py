"""What systemd does for a service: it is told of our state (sd_notify(3)), and passes sockets (sd_listen_fds(3))."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final

from tenantd.errors import ConfigError

log = logging.getLogger(__name__)

FIRST_PASSED: Final = 3
"""SD_LISTEN_FDS_START."""
MOST_PASSED: Final = 64
FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
FOR_ITS_SERVICE: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""What systemd tells the service's own process, and no program that it starts."""


def passed_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd has bound for this process, at most once: what names them is removed.

    Raises ConfigError if one is not a stream socket that listens.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found: list[socket.socket] = []
    for number in range(min(int(count), MOST_PASSED)):
        name = names[number] if number < len(names) and names[number] else str(FIRST_PASSED + number)
        try:
            sock = socket.socket(fileno=FIRST_PASSED + number)
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as e:
            raise ConfigError(f"systemd has passed no socket as descriptor {name}: {e.strerror}") from e
        if not listens or sock.type != socket.SOCK_STREAM or sock.family not in FAMILIES:
            raise ConfigError(f"systemd has passed {name}, which does not listen for streams; use ListenStream=")
        sock.set_inheritable(False)
        sock.setblocking(False)
        found.append(sock)
    return found


def watchdog_interval_s(environment: Mapping[str, str]) -> float | None:
    """How often to say that this process is alive: twice in the time after which systemd would kill it. None if systemd
    does not watch it (sd_watchdog_enabled(3))."""
    pid, micros = environment.get("WATCHDOG_PID", ""), environment.get("WATCHDOG_USEC", "")
    if pid not in ("", str(os.getpid())) or not (micros.isascii() and micros.isdecimal()) or not int(micros):
        return None
    return int(micros) / 2e6


class Notifier:
    """Sends to the socket named by NOTIFY_SOCKET. A message that cannot be sent is logged, never raised."""

    def __init__(self, address: str | None = None) -> None:
        """`address` defaults to NOTIFY_SOCKET; a leading @ means the abstract namespace."""
        self._address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        self._watchdog_s = watchdog_interval_s(os.environ)
        self._ready_line = ""

    def ready(self, status: str) -> None:
        """Report that requests are served."""
        self._ready_line = status
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Report that the configuration is being read again. Before the daemon is ready, nothing is reported: it would
        be ready afterwards."""
        if self._ready_line:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def reloaded(self) -> None:
        """Report the end of `reloading`, whether or not anything has changed."""
        if self._ready_line:
            self.ready(self._ready_line)

    async def keep_alive(self) -> None:
        """Show that the event loop turns, until cancelled: a daemon whose loop hangs is killed and started again.
        Returns if systemd does not watch it."""
        while self._address and self._watchdog_s is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s)

    def status(self, status: str) -> None:
        """Set the line shown by `systemctl status`."""
        self._send(f"STATUS={status}")

    def stopping(self) -> None:
        """Report that the shutdown has begun."""
        self._send("STOPPING=1\nSTATUS=draining")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(1)
                sock.sendto(message.encode(), address)
        except OSError as e:
            log.warning("NOTIFY_SOCKET %s: %s", self._address, e)
