"""Certificates of listeners: read and tried out at start, and again when told."""

from __future__ import annotations

import contextlib
import logging
import ssl
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple

from tenantd.errors import ConfigError

log = logging.getLogger(__name__)

CURVE: Final = "prime256v1"
"""The only group. Every client has it; the large ones that OpenSSL would let a client choose cost the server 0.2 s."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; without the finite-field ones, which cost as much."""
SOON_S: Final = 14 * 86_400
"""How long before its end a certificate is warned of."""
DAY_S: Final = 86_400
TRIALS: Final = 3
MOST_FLIGHTS: Final = 6
"""Of a handshake, which has at most four."""
MOST_FILE_BYTES: Final = 1 << 20
_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID


class Loaded(NamedTuple):
    """A certificate that works. `warning` is what clients will not like about it, "" if nothing.

    `handshake_s` is the CPU time that a handshake takes here.
    """

    context: ssl.SSLContext
    handshake_s: float
    warning: str


class Certificate:
    """The certificate of a listener, for its next handshakes."""

    def __init__(self, name: str, cert: Path, key: Path) -> None:
        """`name` is the listener's table, for messages. Raises ConfigError."""
        self._name = name
        self._use(load(name, cert, key))

    @property
    def context(self) -> ssl.SSLContext:
        return self._loaded.context

    @property
    def handshake_s(self) -> float:
        """CPU time of one handshake."""
        return self._loaded.handshake_s

    def renew(self, cert: Path, key: Path) -> None:
        """Read the files again. Raises ConfigError and keeps what was there if they cannot be used. May take a while,
        so do not call it in the event loop."""
        self._use(load(self._name, cert, key))

    def _use(self, loaded: Loaded) -> None:
        if loaded.warning:
            log.warning("%s: %s", self._name, loaded.warning)
        self._loaded = loaded


def load(name: str, cert: Path, key: Path) -> Loaded:
    """Read a certificate and its key, and try them out. Raises ConfigError."""
    _look_at(f"{name}: cert", cert, "CERTIFICATE", "openssl x509 -in FILE -noout -text")
    _look_at(f"{name}: key", key, "PRIVATE KEY", "openssl pkey -in FILE -noout")
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        log.warning("%s: key: every user can read or replace the private key; run: chmod o-rw %s", name, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ecdh_curve(CURVE)
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])

    def refuse_to_ask() -> str:
        raise ConfigError(f"{name}: key: {key} has a password; store the key without one, readable only by tenantd")

    try:
        context.load_cert_chain(cert, key, refuse_to_ask)
        return _tried(context, cert)
    except ssl.SSLError as e:
        if e.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{name}: key: {key} is not the private key of {cert}") from e
        raise ConfigError(f"{name}: cannot use {cert} with {key}: {e.reason or e}") from e
    except OSError as e:
        raise ConfigError(f"{name}: cannot read {cert} or {key}: {e.strerror}") from e


def _look_at(setting: str, path: Path, what: str, command: str) -> None:
    """Raises ConfigError for the mistakes that OpenSSL does not tell apart."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_FILE_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"{setting}: cannot read {path}: {e.strerror}") from e
    if b"-----BEGIN " not in text or f"{what}-----".encode() not in text or len(text) > MOST_FILE_BYTES:
        shown = command.replace("FILE", str(path))
        raise ConfigError(f"{setting}: {path} has no {what.lower()} in PEM format; look at it with: {shown}")


def _tried(context: ssl.SSLContext, cert: Path) -> Loaded:
    """Shake hands with itself, as a client that trusts this certificate and looks at nothing but its dates and uses."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client_context.load_verify_locations(cafile=cert)
    took_s, ends_s = float("inf"), float("inf")
    for _ in range(TRIALS):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        spent_s = 0.0
        for _ in range(MOST_FLIGHTS):
            try:
                _step(client)
            except ssl.SSLCertVerificationError as e:
                return Loaded(context, spent_s, _complaint(cert, e))
            began_s = time.thread_time()
            _step(server)
            spent_s += time.thread_time() - began_s
        took_s = min(took_s, spent_s)
        shown = client.getpeercert() or {}
        ends_s = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    left_s = ends_s - time.time()
    if left_s < SOON_S:
        return Loaded(context, took_s, f"the certificate {cert} expires in {left_s / DAY_S:.0f} days; renew it")
    return Loaded(context, took_s, "")


def _step(side: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()


def _complaint(cert: Path, error: ssl.SSLCertVerificationError) -> str:
    known = {_EXPIRED: "has expired; renew it", _NOT_YET: "is not valid yet; check the clock"}
    reason = known.get(error.verify_code, f"is not accepted by clients: {error.verify_message}")
    return f"the certificate {cert} {reason}"
