"""Notifies systemd of our state (sd_notify(3)), one datagram at a time, if it asked for that."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


class Notifier:
    """Sends to the socket named by NOTIFY_SOCKET. A message that cannot be sent is logged, never raised."""

    def __init__(self, address: str | None = None) -> None:
        """`address` defaults to NOTIFY_SOCKET; a leading @ means the abstract namespace."""
        self._address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address

    def ready(self, status: str) -> None:
        """Report that requests are served."""
        self._send(f"READY=1\nSTATUS={status}")

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
