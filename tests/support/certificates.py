"""Certificates of an authority that only the tests trust."""

from __future__ import annotations

import datetime
import ssl
from functools import cached_property
from pathlib import Path

import trustme


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._folder = folder
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    @cached_property
    def trust(self) -> ssl.SSLContext:
        """A client that trusts this authority and no other."""
        return ssl.create_default_context(cafile=self.file)

    def issue(self, name: str = "server", *, expires: datetime.datetime | None = None) -> dict[str, str]:
        """A certificate for 127.0.0.1, as settings of a listener. The files of the same name are replaced."""
        made = self._ca.issue_cert("127.0.0.1", "localhost", not_after=expires, key_type=trustme.KeyType.ECDSA)
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        made.cert_chain_pems[0].write_to_path(cert)
        made.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return {"cert": str(cert), "key": str(key)}
