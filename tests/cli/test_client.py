"""What the client does below HTTP."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from tenantctl.client import Client

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
