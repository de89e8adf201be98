"""Listeners on TCP, and all listeners together: those that the configuration names, bound here or passed by systemd."""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tenantd.api.listener import BACKLOG, Listening, listen
from tenantd.api.tls import Certificate
from tenantd.config import Config, ListenConfig
from tenantd.errors import ConfigError
from tenantd.listen_settings import entry, parse_address

log = logging.getLogger(__name__)

_REASONS: Final = {
    errno.EADDRINUSE: "another program already listens there; find it with `ss -ltnp`, or choose another port",
    errno.EADDRNOTAVAIL: "this machine does not have this address; see `ip address`",
    errno.EACCES: "ports below 1024 are for root; choose a higher one, or let systemd pass the socket",
    errno.EAFNOSUPPORT: "this machine has no IPv6; use an IPv4 address",
}


class TcpListener:
    """A listening socket on TCP, and its certificate if it speaks TLS."""

    def __init__(self, sock: socket.socket, settings: ListenConfig, certificate: Certificate | None) -> None:
        self.sock = sock
        self.certificate = certificate
        host, port = sock.getsockname()[:2]
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"
        self.is_open = settings.plaintext and not settings.is_loopback

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        self.sock.close()


class PassedListener:
    """The Unix socket as systemd has bound it; its file and permissions are systemd's business."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        self.sock.close()


def open_listeners(config: Config, passed: Sequence[socket.socket] = ()) -> list[Listening]:
    """The Unix socket first, then the listeners on TCP as they are configured.

    `passed` are sockets that systemd has bound. Each must be one that the configuration names; what is not among them
    is bound here. Raises AlreadyRunning, ConfigError; then nothing stays open.
    """
    left = list(passed)
    with ExitStack() as opened:
        for sock in left:
            opened.callback(sock.close)
        found = _take(left, lambda sock: _is_file(sock, config.socket))
        mode, group = int(config.server.socket_mode, 8), config.server.socket_group
        own: Listening = listen(config.socket, mode=mode, group=group) if found is None else PassedListener(found)
        opened.callback(own.close)
        listeners: list[Listening] = [own]
        for number, settings in enumerate(config.server.listen):
            name = entry(number)
            certificate = None
            if settings.cert is not None and settings.key is not None:
                certificate = Certificate(name, settings.cert, settings.key)
            found = _take(left, functools.partial(_is_at, settings.address))
            bound = found or _bind(name, settings)
            listeners.append(TcpListener(bound, settings, certificate))
            opened.callback(listeners[-1].close)
        if left:
            raise ConfigError(
                f"systemd has passed a socket that the configuration does not name: {_shown(left[0])}; "
                f"{_how_to_name(left[0])}"
            )
        opened.pop_all()
    return listeners


def say_where(listeners: Sequence[Listening], path: Path) -> None:
    """Log where the daemon listens, and warn of what others can read."""
    log.info("listening on %s", path)
    for one in listeners:
        if isinstance(one, TcpListener):
            log.info("listening on %s", one.url)
            if one.is_open:
                log.warning(
                    "%s is not encrypted: anyone on the network path can read keys, prompts and answers "
                    "(server.listen: plaintext)",
                    one.url,
                )


def renew_certificates(listeners: Sequence[Listening], settings: Sequence[ListenConfig]) -> None:
    """Read all certificates again. What cannot be used is logged, and the one before stays in use. Blocks."""
    on_tcp = [one for one in listeners if isinstance(one, TcpListener)]
    for listener, one in zip(on_tcp, settings, strict=True):
        if listener.certificate is not None and one.cert is not None and one.key is not None:
            try:
                listener.certificate.renew(one.cert, one.key)
            except ConfigError as e:
                log.error("cannot use the new certificate, so the previous one stays in use: %s", e.message)


def _bind(name: str, settings: ListenConfig) -> socket.socket:
    address = parse_address(settings.address)
    try:
        sock = socket.socket(socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as e:
        raise _cannot(name, settings, e) from e
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run may still be ending
        if address.ip.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(socket.getaddrinfo(str(address.ip), address.port, flags=socket.AI_NUMERICHOST)[0][4])
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as e:
        sock.close()
        raise _cannot(name, settings, e) from e
    return sock


def _cannot(name: str, settings: ListenConfig, error: OSError) -> ConfigError:
    reason = _REASONS.get(error.errno or 0, error.strerror)
    return ConfigError(f"{name}: address: cannot listen on {settings.address}: {reason}")


def _take(left: list[socket.socket], is_it: Callable[[socket.socket], bool]) -> socket.socket | None:
    for sock in left:
        if is_it(sock):
            left.remove(sock)
            return sock
    return None


def _is_file(sock: socket.socket, path: Path) -> bool:
    """Whether a socket is bound to this path, however that is written."""
    if sock.family != socket.AF_UNIX:
        return False
    name = os.fsdecode(sock.getsockname())
    return bool(name) and os.path.realpath(name) == os.path.realpath(path)


def _is_at(address: str, sock: socket.socket) -> bool:
    return sock.family != socket.AF_UNIX and _shown(sock) == address


def _shown(sock: socket.socket) -> str:
    """As the configuration writes it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return os.fsdecode(name) or "an abstract socket"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def _how_to_name(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f'set socket = "{_shown(sock)}" in [server], or TENANTD_SOCKET'
    return f'add a table [[server.listen]] with address = "{_shown(sock)}", or remove it from the socket unit'
