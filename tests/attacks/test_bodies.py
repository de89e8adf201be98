"""Bodies that are large, many, never whole, or slow: what they take of memory, and whom they keep out."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
import pytest

from tenantd.api.connection import FREE_CHUNKS, LEAST_CHUNK_BYTES
from tests.attacks.kit import unharmed
from tests.attacks.raw import connect, error_code, head, read_answer
from tests.support.daemon import Daemon, wait_until

MB = 1_000_000
ATTACKERS = 60
LARGE_BYTES = 31 * MB
SOON_BYTES = 40 * MB  # of the daemon's memory that may stay after an attack


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """As it is configured when nobody configures anything."""
    with Daemon(tmp_path_factory.mktemp("bodies")) as daemon:
        yield daemon


class Uploads:
    """Connections that send as much as the daemon takes of bodies that never end, and come again when refused."""

    def __init__(self, daemon: Daemon, keys: list[str], count: int, start: bytes = b'{"prompt": "') -> None:
        self._daemon = daemon
        self._keys = keys
        self._start = start
        self._filler = b"x" * 100_000
        self._selector = selectors.DefaultSelector()
        self.sent_bytes = 0
        self.refused = 0
        for number in range(count):
            self._open(number)

    def _open(self, number: int) -> None:
        sock = connect(self._daemon)
        sock.sendall(head(self._keys[number % len(self._keys)], LARGE_BYTES) + self._start)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, [number, len(self._start)])

    def go_on(self) -> None:
        for found, events in self._selector.select(0.05):
            number, sent = found.data
            sock = found.fileobj
            assert isinstance(sock, socket.socket)
            if events & selectors.EVENT_READ:
                self._selector.unregister(sock)
                sock.close()
                self.refused += 1
                self._open(number)
            elif sent + len(self._filler) < LARGE_BYTES:
                with suppress(OSError):
                    more = sock.send(self._filler)
                    found.data[1] += more
                    self.sent_bytes += more
            else:
                self._selector.modify(sock, selectors.EVENT_READ, found.data)

    def close(self) -> None:
        for found in list(self._selector.get_map().values()):
            assert isinstance(found.fileobj, socket.socket)
            found.fileobj.close()
        self._selector.close()


def body_of(size_bytes: int) -> bytes:
    """A good request of that size."""
    request = {"prompt": "hi", "max_tokens": 2, "ignore_eos": True, "user": ""}
    request["user"] = "x" * (size_bytes - len(json.dumps(request)))
    return json.dumps(request).encode()


def post(daemon: Daemon, key: str, body: bytes) -> int:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return daemon.request("POST", "/v1/completions", content=body, headers=headers).status_code


def memory_bytes(daemon: Daemon) -> int:
    assert daemon.process is not None
    return int(psutil.Process(daemon.process.pid).memory_info().rss)


@pytest.mark.parametrize("attackers", [1, 20])
def test_bodies_that_never_end_take_little_memory_and_keep_nobody_out(daemon: Daemon, attackers: int) -> None:
    keys = [daemon.add_tenant(f"uploads-{attackers}-{number}") for number in range(attackers)]
    honest = daemon.add_tenant(f"honest-{attackers}")
    before_bytes = memory_bytes(daemon)
    statuses: list[int] = []
    with unharmed(daemon, name=f"neighbour-{attackers}") as watch:
        uploads = Uploads(daemon, keys, ATTACKERS)
        asked_s = 0.0
        while watch.goes_on:
            uploads.go_on()
            if time.monotonic() - asked_s > 1:  # far more than its equal part is 1 MB not
                statuses.append(post(daemon, honest, body_of(MB)))
                asked_s = time.monotonic()
        uploads.close()
    assert uploads.sent_bytes > 20 * MB, "it was an attack"
    assert set(statuses) == {200}
    wait_until(lambda: memory_bytes(daemon) < before_bytes + SOON_BYTES, "the memory to be given back")


def test_large_bodies_that_are_whole_take_little_memory(daemon: Daemon) -> None:
    key = daemon.add_tenant("whole")
    body = body_of(LARGE_BYTES)
    before_bytes = memory_bytes(daemon)
    with unharmed(daemon, name="neighbour-whole") as watch, ExitStack() as stack:
        while watch.goes_on:
            socks = [stack.enter_context(connect(daemon)) for _ in range(3)]
            for sock in socks:
                sock.sendall(head(key, len(body)))
            for sock in socks:
                sock.sendall(body)
            assert {read_answer(sock)[0] for sock in socks} <= {200, 429}
            stack.close()
    wait_until(lambda: memory_bytes(daemon) < before_bytes + SOON_BYTES, "the memory to be given back")


@pytest.mark.parametrize("field", ["prompt", "user"])
def test_wide_characters_do_not_multiply_the_memory(daemon: Daemon, field: str) -> None:
    """One emoji makes Python keep four bytes for each character of a text."""
    keys = [daemon.add_tenant(f"wide-{field}-{number}") for number in range(4)]
    text = "\U0001f600" + "x" * (16 * MB)
    body = json.dumps({"prompt": "hi", "max_tokens": 1, field: text}, ensure_ascii=field == "user").encode()
    with unharmed(daemon, name=f"neighbour-wide-{field}") as watch, ThreadPoolExecutor(8) as threads:
        while watch.goes_on:
            statuses = set(threads.map(lambda key: post(daemon, key, body), keys * 2))
            assert statuses <= {200, 400, 429, 503}
    larger = json.dumps({"prompt": "hi", "user": "\U0001f600" + "x" * (17 * MB)}).encode()
    assert post(daemon, keys[0], larger) == 413


def chunked(key: str) -> bytes:
    """The head of a POST whose body comes in chunks."""
    return head(key, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")


def in_chunks(body: bytes, size_bytes: int) -> bytes:
    """The body, but for the chunk that ends it."""
    pieces = (body[i : i + size_bytes] for i in range(0, len(body), size_bytes))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


class Chunks:
    """Connections that send as many chunks as the daemon takes, and come again when refused."""

    def __init__(self, daemon: Daemon, key: str, count: int, size_bytes: int) -> None:
        self._daemon = daemon
        self._start = chunked(key)
        self._filler = in_chunks(b" " * (1 << 17), size_bytes)
        self._selector = selectors.DefaultSelector()
        self.sent_bytes = 0
        for _ in range(count):
            self._open()

    def _open(self) -> None:
        sock = connect(self._daemon)
        sock.sendall(self._start)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_WRITE, bytearray(self._filler))

    def go_on(self) -> None:
        for found, _ in self._selector.select(0.05):
            sock = found.fileobj
            assert isinstance(sock, socket.socket)
            try:
                sent = sock.send(found.data)
            except BlockingIOError:
                continue
            except OSError:
                self._selector.unregister(sock)
                sock.close()
                self._open()
                continue
            self.sent_bytes += sent
            del found.data[:sent]
            if len(found.data) < len(self._filler):
                found.data.extend(self._filler)

    def close(self) -> None:
        for found in list(self._selector.get_map().values()):
            assert isinstance(found.fileobj, socket.socket)
            found.fileobj.close()
        self._selector.close()


@pytest.mark.parametrize("size_bytes", [1, LEAST_CHUNK_BYTES])
@pytest.mark.parametrize("sender", ["tenant", "nobody"])
def test_small_chunks_keep_nobody_waiting(daemon: Daemon, size_bytes: int, sender: str) -> None:
    """Each costs as much to parse as a large one."""
    key = daemon.add_tenant(f"chunks-{size_bytes}") if sender == "tenant" else "td_nobody"
    with unharmed(daemon, name=f"neighbour-chunks-{size_bytes}-{sender}") as watch:
        chunks = Chunks(daemon, key, 16, size_bytes)
        try:
            while watch.goes_on:
                chunks.go_on()
        finally:
            chunks.close()
    assert chunks.sent_bytes > MB, "it was an attack"


@pytest.mark.parametrize(("size_bytes", "of_bytes"), [(1, FREE_CHUNKS), (LEAST_CHUNK_BYTES, MB), (100, MB)])
def test_a_body_in_small_chunks_is_read(daemon: Daemon, size_bytes: int, of_bytes: int) -> None:
    key = daemon.add_tenant(f"streams-{size_bytes}")
    with connect(daemon) as sock:
        sock.sendall(chunked(key) + in_chunks(body_of(of_bytes), size_bytes) + b"0\r\n\r\n")
        assert read_answer(sock)[0] == 200


def test_a_body_of_too_many_chunks_is_refused_as_soon_as_it_has_them(daemon: Daemon) -> None:
    key = daemon.add_tenant("too-small")
    most = FREE_CHUNKS * LEAST_CHUNK_BYTES // (LEAST_CHUNK_BYTES - 1)  # of one byte each
    with connect(daemon) as sock:
        sock.sendall(chunked(key) + in_chunks(b" " * (most + 1), 1))
        status, body = read_answer(sock)
    assert (status, error_code(body)) == (400, "invalid_request") and b"chunks are too small" in body


def test_a_body_that_stops_coming_is_given_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"server": {"body_timeout_s": 2}}
    with Daemon(tmp_path_factory.mktemp("slow"), **settings) as daemon:
        key = daemon.add_tenant("slow")
        with connect(daemon) as sock:
            sock.sendall(head(key, 1000) + b"{")
            status, body = read_answer(sock)
        assert (status, error_code(body)) == (408, "body_timeout")
        with connect(daemon) as sock:  # a byte now and then is no progress
            sock.sendall(head(key, 1000))
            began_s = time.monotonic()
            sock.settimeout(0.1)
            while time.monotonic() - began_s < 25:  # less than the usual patience
                with suppress(TimeoutError):
                    sock.send(b" ")
                    if answer := sock.recv(12):
                        break
            assert answer == b"HTTP/1.1 408"
            sock.settimeout(120)
            with suppress(ConnectionResetError):
                while sock.recv(1 << 16):
                    pass  # and then it is closed, though the client goes on
        assert post(daemon, key, body_of(MB)) == 200
