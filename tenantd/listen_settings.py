"""The tables `[[server.listen]]` of the configuration: addresses on TCP, beside the Unix socket."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Final, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from tenantd.setting_kinds import File, Line, Section

MOST_LISTENERS: Final = 16
MOST_NAMES: Final = 64
ANY_ORIGIN: Final = "*"
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<v4>[^:\[\]]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_NAME: Final = r"(?:[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,30}|\[[0-9a-f:.]{2,45}\])"
_HOST: Final = re.compile(_NAME, re.ASCII)
_ORIGIN: Final = re.compile(rf"[a-z][a-z0-9+.-]{{0,30}}://{_NAME}(?::[0-9]{{1,5}})?", re.ASCII)


class Address(NamedTuple):
    """Where to listen. Port 0 is any free one."""

    ip: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises ValueError, which says what an address looks like."""
    expected = "must be an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080"
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(expected)
    try:
        ip = ip_address(found["v6"] or found["v4"])
    except ValueError:
        raise ValueError(expected) from None
    if (ip.version == 6) != (found["v6"] is not None):
        raise ValueError(expected)
    if (port := int(found["port"])) > 65535:
        raise ValueError("the port must be at most 65535")
    return Address(ip, port)


def _address(value: str) -> str:
    return str(parse_address(value))


def _origin(value: str) -> str:
    if value != ANY_ORIGIN and not _ORIGIN.fullmatch(value):
        raise ValueError('must be like "https://chat.example.org", in lower case and without a path, or "*"')
    return value


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise ValueError('must be a host name like "llm.example.org", in lower case and without a port')
    return value


Origins = tuple[Annotated[str, AfterValidator(_origin)], ...]
Hosts = tuple[Annotated[str, AfterValidator(_host)], ...]


class ListenConfig(Section):
    """A TCP address, where all clients need an API key. Leave out a limit to use the one in [server]."""

    address: Annotated[Line, AfterValidator(_address)] = Field(
        description="IP address and port. Addresses that other machines can reach need TLS: cert and key.",
        examples=["127.0.0.1:8080"],
    )
    cert: File | None = Field(
        None,
        description="Certificate chain for TLS, as PEM; read again on SIGHUP.",
        examples=["/etc/tenantd/cert.pem"],
    )
    key: File | None = Field(
        None, description="Private key of the certificate, without a password.", examples=["/etc/tenantd/key.pem"]
    )
    plaintext: bool = Field(
        False, description="Let other machines connect without TLS: their keys and prompts travel unencrypted."
    )
    origins: Origins = Field(
        (),
        strict=False,
        max_length=MOST_NAMES,
        description='Web pages whose scripts may send requests, with their own key; "*" for all. '
        "They can never administer.",
        examples=[["https://chat.example.org"]],
    )
    hosts: Hosts = Field(
        (),
        strict=False,
        max_length=MOST_NAMES,
        description="Names that clients use for this address; others are refused. Default: on loopback, only "
        "localhost and IP addresses; elsewhere, any.",
        examples=[["llm.example.org"]],
    )
    web: bool | None = Field(
        None,
        description="Serve the web page here, where tenants log in with their key. Default: only on loopback, and "
        "without hosts.",
        examples=[True],
    )
    max_connections: int = Field(
        0, ge=0, le=1 << 20, description="Maximum connections here. 0: half of the file descriptors, at most 4096."
    )
    max_connections_per_address: int | None = Field(
        None, ge=0, le=1 << 20, description="Maximum connections from one address.", examples=[100]
    )
    max_body_bytes: int | None = Field(
        None,
        ge=1024,
        le=1 << 30,
        description="Largest request body; at most server.max_body_bytes.",
        examples=[1 << 20],
    )
    head_timeout_s: float | None = Field(
        None,
        gt=0,
        le=3600,
        description="Timeout for a TLS handshake, and for the request line and headers.",
        examples=[5],
    )
    body_timeout_s: float | None = Field(
        None, gt=0, le=3600, description="Drop a request whose body stalls for this long.", examples=[10]
    )
    idle_timeout_s: float | None = Field(
        None, gt=0, le=86_400, description="Close an idle connection after this long.", examples=[30]
    )
    write_timeout_s: float | None = Field(
        None, gt=0, le=3600, description="Drop a client that reads nothing for this long.", examples=[30]
    )

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: set both, or neither")
        if self.cert is not None and self.plaintext:
            raise ValueError("has cert and key, so plaintext must not be set")
        if not (self.is_loopback or self.cert is not None or self.plaintext):
            raise ValueError(
                f"other machines can reach {self.address}: set cert and key for TLS, listen on 127.0.0.1 instead, or "
                "set plaintext = true if nobody can listen in on this network"
            )
        return self

    @property
    def has_tls(self) -> bool:
        return self.cert is not None

    @property
    def has_page(self) -> bool:
        """Whether the web page is served here."""
        return self.is_loopback and not self.hosts if self.web is None else self.web

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return parse_address(self.address).ip.is_loopback


OWN_LIMITS: Final = (
    "max_connections_per_address",
    "max_body_bytes",
    "head_timeout_s",
    "body_timeout_s",
    "idle_timeout_s",
    "write_timeout_s",
)
"""Settings of [server] that a listener may have its own value for."""


def entry(number: int) -> str:
    """How messages name a table `[[server.listen]]`. The first has number 0."""
    return f"server.listen, entry {number + 1}"


def same_places(one: tuple[ListenConfig, ...], other: tuple[ListenConfig, ...]) -> bool:
    """Whether both listen on the same addresses, in the same order, with TLS on the same ones."""
    return [(each.address, each.has_tls) for each in one] == [(each.address, each.has_tls) for each in other]
