"""A tenant that asks for its own figures on hundreds of connections at once, as fast as it is answered."""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Iterator

import pytest

from tests.attacks.kit import unharmed
from tests.attacks.raw import connect
from tests.support.daemon import Daemon

CONNECTIONS = 200
ATTACK_S = 5.0


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("polling")) as daemon:
        yield daemon


def test_a_tenant_that_polls_on_many_connections_keeps_no_neighbour_waiting(daemon: Daemon) -> None:
    ask = (
        f"GET /v1/live HTTP/1.1\r\nhost: tenantd\r\nauthorization: Bearer {daemon.add_tenant('polling')}\r\n\r\n"
    ).encode()
    answered = 0
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as ready:
        sockets = [stack.enter_context(connect(daemon)) for _ in range(CONNECTIONS)]
        for number, sock in enumerate(sockets):
            ready.register(sock, selectors.EVENT_READ, number)
        with unharmed(daemon, attack_s=ATTACK_S) as watch:
            for sock in sockets:
                sock.sendall(ask)
            while watch.goes_on or answered <= CONNECTIONS:
                for event, _ in ready.select(1):
                    received = sockets[event.data].recv(1 << 16)
                    assert received.startswith((b"HTTP/1.1 200 ", b"{")), received[:300]
                    if received.endswith(b"}"):
                        answered += 1
                        sockets[event.data].sendall(ask)
    assert answered > CONNECTIONS, "it was not answered at all"
