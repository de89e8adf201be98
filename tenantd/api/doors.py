"""Where connections come in: the Unix socket, or a listener on TCP; and what is in force there."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Final, NamedTuple

from tenantd.config import ListenConfig, ServerConfig
from tenantd.listen_settings import entry

SOCKET: Final = "socket"
MOST_ADDRESSES: Final = 4096
"""Remembered. To read one takes a quarter of the time of accepting a connection."""
IPV6_PREFIX_BITS: Final = 64
"""One customer of a provider has that many addresses, so they count as one."""


class Source(NamedTuple):
    """Whose connections count together at one door: those of a Unix user, or of an address."""

    door: str
    name: str


class Door:
    """One of the places where connections come in. The socket has no `listen`."""

    def __init__(self, server: Callable[[], ServerConfig], number: int | None = None) -> None:
        """`server` is called each time, because settings can be reloaded. `number` is that of the listener."""
        self._server = server
        self._number = number
        self.name = SOCKET if number is None else entry(number)
        self._resolved: tuple[ServerConfig, ServerConfig] | None = None

    @property
    def listen(self) -> ListenConfig | None:
        """The listener's own settings."""
        return None if self._number is None else self._server().listen[self._number]

    def settings(self) -> ServerConfig:
        """Those of the server, with the listener's own in their place."""
        server = self._server()
        if self._number is None:
            return server
        if self._resolved is None or self._resolved[0] is not server:
            self._resolved = server, server.at(server.listen[self._number])
        return self._resolved[1]

    def user(self, uid: int) -> Source:
        """A Unix user as a source."""
        return Source(self.name, f"user {uid}")

    def address(self, address: str) -> Source:
        """An address as a source."""
        return Source(self.name, f"address {address}")


class OwnDoor(Door):
    """A listener on TCP that the daemon opens by itself, beside those of its configuration."""

    def __init__(self, server: Callable[[], ServerConfig], name: str, listen: ListenConfig) -> None:
        super().__init__(server)
        self.name = name
        self._listen = listen

    @property
    def listen(self) -> ListenConfig:
        return self._listen

    def settings(self) -> ServerConfig:
        server = self._server()
        if self._resolved is None or self._resolved[0] is not server:
            self._resolved = server, server.at(self._listen)
        return self._resolved[1]


def address_of(peer_name: Any) -> str:
    """What an address counts as, from what accept() returned: an IPv4 address, or the network of an IPv6 one."""
    return _counted_as(str(peer_name[0]).partition("%")[0])


@lru_cache(maxsize=MOST_ADDRESSES)
def _counted_as(address: str) -> str:
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is None:
            return str(IPv6Network((ip, IPV6_PREFIX_BITS), strict=False))
        ip = ip.ipv4_mapped
    return str(ip)
