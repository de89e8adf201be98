"""What the client does below HTTP."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from tenantctl.client import Client
from tenantctl.places import WebPlace

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def test_calls_share_one_connection_after_the_one_that_probes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    accepted = []

    def serve(listening: socket.socket) -> None:
        while True:
            connection, _ = listening.accept()
            with connection:
                accepted.append(0)
                while asked := connection.recv(1 << 16):
                    if asked == b"end":
                        return
                    accepted[-1] += 1
                    connection.sendall(ANSWER)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        server = threading.Thread(target=serve, args=(listening,), daemon=True)
        server.start()
        with Client(path) as client:
            assert [client.get("/one"), client.get("/two"), client.readiness()] == [{}, {}, {}]
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
            last.sendall(b"end")
            server.join(60)
    assert accepted == [0, 3, 0], "the probe, the connection, and the end"


@pytest.mark.parametrize(
    ("number", "reason", "cure"),
    [
        (18, "self-signed certificate", "if it is from your own authority, pass --ca FILE or set TENANTD_CA"),
        (64, "IP address mismatch, certificate is not valid for '10.0.0.7'.", "use a name or address that is in the"),
        (10, "certificate has expired", "the server needs a new one, or a clock here or there is wrong"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_told_with_its_cure(number: int, reason: str, cure: str) -> None:
    """More authorities do not help against a wrong name or time."""
    refused = ssl.SSLCertVerificationError()
    refused.verify_code, refused.verify_message = number, reason
    said = WebPlace("https://10.0.0.7").not_connected(refused).message
    assert said.startswith(f"the certificate of https://10.0.0.7 is not trusted: {reason.rstrip('.')}; {cure}")
    assert ("--ca" in said) == (number == 18)
