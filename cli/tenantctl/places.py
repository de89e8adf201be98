"""Where the daemon is: at a Unix socket or at a URL. How to connect there, and what went wrong if that fails.

httpx and ssl are imported on the first connection, so that `--help` and completion do not wait for them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from tenantctl.installed import how_to_start
from tenantd.errors import DaemonNotRunning, Forbidden, InvalidRequest, TenantdError, UnusableFile

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_TIMEOUT_S: Final = 5.0
_OTHER_NAME: Final = (62, 64)
_OTHER_TIME: Final = (9, 10)
"""OpenSSL's numbers: the certificate is for other names or addresses; it is not yet valid or has expired."""


class Place(Protocol):
    """Where a daemon is. Its text names it in messages."""

    def http(self, timeout_s: float, key: str) -> httpx.Client:
        """A client for it that shows this key, "" for none. Raises TenantdError."""

    def probe(self) -> None:
        """Learn the system's reason if nothing can be reached, where that costs nothing. Raises TenantdError."""

    def not_connected(self, error: Exception) -> TenantdError:
        """Why a connection could not be made, from what httpx raised."""


@dataclass(frozen=True)
class SocketPlace:
    """A Unix socket on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def http(self, timeout_s: float, key: str) -> httpx.Client:
        import httpx

        # no proxies and no certificates: httpx would look both up, and a Unix socket uses neither
        transport = httpx.HTTPTransport(uds=str(self.path), verify=False, trust_env=False)
        return _client(transport, "http://tenantd", timeout_s, key)

    def probe(self) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(CONNECT_TIMEOUT_S)
                probe.connect(str(self.path))
        except OSError as e:
            if isinstance(e, PermissionError):
                reason = f"permission denied: {self.path}; join the group of the socket, or ask its owner"
                raise Forbidden(reason) from e
            reason = "" if isinstance(e, FileNotFoundError | ConnectionRefusedError) else f" ({e})"
            raise DaemonNotRunning(f"no daemon is listening on {self.path}{reason}; {how_to_start(self.path)}") from e

    def not_connected(self, error: Exception) -> TenantdError:
        return DaemonNotRunning(f"lost the connection to the daemon at {self.path} ({error})")


@dataclass(frozen=True)
class WebPlace:
    """A URL; its path, if any, is a proxy's. `ca` is a file with the certificates to trust instead of the system's."""

    url: str
    ca: Path | None = None

    def __str__(self) -> str:
        return self.url

    @property
    def is_exposed(self) -> bool:
        """Whether others can read what is sent there."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")

    def http(self, timeout_s: float, key: str) -> httpx.Client:
        import httpx

        transport = httpx.HTTPTransport(verify=self._trust(), trust_env=False)
        return _client(transport, self.url, timeout_s, key)

    def probe(self) -> None:
        """Nothing: it would cost as much as the request."""

    def _trust(self) -> ssl.SSLContext | bool:
        import ssl

        if self.url.startswith("http:"):
            return False
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as e:
            reason = "it has no certificates in PEM format" if isinstance(e, ssl.SSLError) else e.strerror
            raise UnusableFile(f"--ca: cannot use {self.ca}: {reason}") from e

    def not_connected(self, error: Exception) -> TenantdError:
        import ssl

        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Forbidden(f"the certificate of {self.url} is not trusted: {_untrusted(cause)}")
            if isinstance(cause, ssl.SSLError):
                return DaemonNotRunning(f"{self.url} does not speak TLS ({cause.reason}); did you mean http://?")
            if isinstance(cause, socket.gaierror):
                return DaemonNotRunning(f"cannot find the host of {self.url}: {cause.strerror}")
            if isinstance(cause, OSError) and cause.errno is not None:
                reason = os.strerror(cause.errno)
                return DaemonNotRunning(
                    f"cannot reach {self.url}: {reason}; is the daemon running, with this address in [[server.listen]]?"
                )
        return DaemonNotRunning(f"cannot reach {self.url} ({error})")


def web_place(url: str, ca: Path | None, *, named: str) -> WebPlace:
    """The place at a URL that a user gave; a /v1 at its end is left out. `named` is the option or variable that has it.

    Raises InvalidRequest.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as e:
        raise InvalidRequest(f"{named}: {url!r}: {e}") from e
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidRequest(f"{named}: {url!r} is not the URL of a server; write it like https://llm.example.org:8080")
    if "@" in parts.netloc:
        raise InvalidRequest(f"{named}: leave out user and password, and set TENANTD_API_KEY to an API key")
    return WebPlace(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}", ca)


def _client(transport: httpx.HTTPTransport, base_url: str, timeout_s: float, key: str) -> httpx.Client:
    import httpx

    timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(transport=transport, base_url=base_url, headers=headers, timeout=timeout, trust_env=False)


def _untrusted(error: ssl.SSLCertVerificationError) -> str:
    """Why, and what to do about it."""
    reason = error.verify_message.rstrip(".")
    if error.verify_code in _OTHER_NAME:
        return f"{reason}; use a name or address that is in the certificate"
    if error.verify_code in _OTHER_TIME:
        return f"{reason}; the server needs a new one, or a clock here or there is wrong"
    return f"{reason}; if it is from your own authority, pass --ca FILE or set TENANTD_CA"


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
