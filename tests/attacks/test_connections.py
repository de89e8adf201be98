"""Connections that are many, slow, idle or half closed: everybody else still gets in."""

from __future__ import annotations

import array
import fcntl
import json
import os
import resource
import select
import selectors
import socket
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tenantd.api.connection import MAX_HEAD_BYTES
from tests.attacks.kit import unharmed
from tests.attacks.raw import allow_descriptors, connect, error_code, head, open_folder, read_answer, strangers
from tests.support.daemon import Daemon, wait_until
from tests.support.program import show_to_own_user

USUAL = 1024
REQUEST = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
STREAMS = 2000


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL, USUAL))


@pytest.fixture
def crowded() -> Iterator[Daemon]:
    """With the usual number of descriptors, and a socket that every user may connect to."""
    engine = {"fake_step_micros": 5000, "context_tokens": 200_000}
    with open_folder() as folder:
        daemon = Daemon(folder, server={"socket_mode": "0666"}, engine=engine)
        show_to_own_user(daemon)
        try:
            daemon.start(before_exec=few_descriptors)
            yield daemon
        finally:
            daemon.kill()


def descriptors(daemon: Daemon) -> int:
    assert daemon.process is not None
    return int(psutil.Process(daemon.process.pid).num_fds())


def is_closed(sock: socket.socket) -> bool:
    """By the other end."""
    sock.settimeout(0)
    with suppress(BlockingIOError):
        try:
            return sock.recv(1) == b""
        except ConnectionResetError:
            return True
    return False


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nx: ", REQUEST, head("td_nobody", 1 << 20)])
def test_strangers_with_as_many_connections_as_they_can_get_lock_nobody_out(crowded: Daemon, said: bytes) -> None:
    """They say nothing, begin a head, idle after a request, or announce a body."""
    key = crowded.add_tenant("acme")
    with unharmed(crowded) as watch, strangers(crowded.socket, 1500, said) as held:
        assert held.count > USUAL // 4, "it was an attack"
        while watch.goes_on:
            assert crowded.get("/admin/v1/status").status_code == 200
            headers = {"Authorization": f"Bearer {key}"}
            assert crowded.post("/v1/completions", {"prompt": "hi", "max_tokens": 2}, headers=headers).is_success
            assert descriptors(crowded) < USUAL - 32, "some are kept back"


def test_an_engine_can_be_started_while_strangers_hold_all_they_may(crowded: Daemon) -> None:
    crowded.add_tenant("acme")
    with strangers(crowded.socket, 1500):
        pid = crowded.engine_pid()
        os.kill(pid, 9)
        wait_until(lambda: crowded.status()["engine_restarts"] == 1, "the engine to be replaced")
        assert crowded.complete("acme", max_tokens=3).status_code == 200
    assert "Too many open files" not in crowded.log.read_text()


class Trickle:
    """Connections that send a byte of a head now and then, and come again when they are closed."""

    def __init__(self, daemon: Daemon, count: int) -> None:
        self._daemon = daemon
        self._socks = [self._begin() for _ in range(count)]
        self.closed = 0

    def _begin(self) -> socket.socket:
        sock = connect(self._daemon)
        sock.sendall(b"GET /healthz HTTP/1.1\r\nx-slow: ")
        return sock

    def go_on(self) -> None:
        for number, sock in enumerate(self._socks):
            try:
                sock.send(b"y")
            except OSError:
                sock.close()
                self.closed += 1
                self._socks[number] = self._begin()

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


def test_slow_heads_harm_nobody_and_are_ended(tmp_path: Path) -> None:
    with Daemon(tmp_path, server={"head_timeout_s": 2}) as daemon, unharmed(daemon) as watch:
        trickle = Trickle(daemon, 200)
        while watch.goes_on:
            trickle.go_on()
            time_passes()
        assert trickle.closed >= 200
        trickle.close()


def time_passes() -> None:
    with selectors.DefaultSelector() as nothing:
        nothing.select(0.1)


SLOW = {"server": {"head_timeout_s": 2, "idle_timeout_s": 3}}
SOON_S = 12
"""Less than the usual patience, and enough for a busy machine."""


def ended_after(sock: socket.socket, began_s: float) -> float:
    """Seconds from `began_s`, before the daemon's own clock began, until it closes."""
    wait_until(lambda: is_closed(sock), "the connection to be closed")
    return time.monotonic() - began_s


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with little patience."""
    daemon = Daemon(tmp_path_factory.mktemp("quick"), **SLOW)
    show_to_own_user(daemon)
    with daemon:
        yield daemon


def test_a_head_that_is_not_whole_in_time_is_answered_408(quick: Daemon) -> None:
    began_s = time.monotonic()
    with connect(quick) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\n")
        status, body = read_answer(sock)
        assert (status, error_code(body)) == (408, "head_timeout")
        assert 0.9 < time.monotonic() - began_s < SOON_S
        assert ended_after(sock, began_s) < SOON_S


def test_a_connection_that_says_nothing_is_closed(quick: Daemon) -> None:
    began_s = time.monotonic()
    with connect(quick) as sock:
        assert 0.5 < ended_after(sock, began_s) < SOON_S


def test_an_idle_connection_is_closed_after_its_own_longer_time(quick: Daemon) -> None:
    with connect(quick) as sock:
        began_s = time.monotonic()
        sock.sendall(REQUEST)
        assert read_answer(sock)[0] == 200
        assert 1.2 < ended_after(sock, began_s) < SOON_S
    with connect(quick) as sock:  # each request begins it anew
        for _ in range(3):
            sock.sendall(REQUEST)
            assert read_answer(sock)[0] == 200
            time_passes()


def test_a_stream_may_last_longer_than_an_idle_connection(tmp_path: Path) -> None:
    with Daemon(tmp_path, **SLOW, engine={"fake_step_micros": 100_000}) as daemon:
        daemon.add_tenant("acme")
        began_s = time.monotonic()
        assert daemon.stream("acme", max_tokens=50, ignore_eos=True).join().done
        assert time.monotonic() - began_s > 4


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("said", [b"", b"GET /", REQUEST, head("td_x", 1000), head("td_x", 1000) + b"{"])
def test_a_half_closed_connection_is_ended_and_nothing_stays(quick: Daemon, said: bytes) -> None:
    before = descriptors(quick)
    with connect(quick) as sock:
        sock.sendall(said)
        half_close(sock)
        assert ended_after_all(sock) < SOON_S
    wait_until(lambda: descriptors(quick) <= before, "the descriptors to be given back")


def ended_after_all(sock: socket.socket) -> float:
    began_s = time.monotonic()
    with suppress(ConnectionResetError):
        while sock.recv(1 << 16):
            pass
    return time.monotonic() - began_s


def test_a_client_that_reads_no_answer_is_let_go(tmp_path: Path) -> None:
    """Its answers fill the kernel's buffer and then ours, which would hold them for ever."""
    daemon = Daemon(tmp_path, server={"write_timeout_s": 1, "idle_timeout_s": 3600})
    show_to_own_user(daemon)
    with daemon:
        before = descriptors(daemon)
        with connect(daemon) as sock:
            unread = -1
            while (now := answered(sock, unread)) > unread:
                unread = now
                sock.sendall(b"GET /admin HTTP/1.1\r\nhost: x\r\n\r\n")
            assert unread > 50_000
            wait_until(lambda: descriptors(daemon) <= before, "the connection to be dropped")


def answered(sock: socket.socket, more_than: int) -> int:
    """Bytes that wait to be read, when they are more; what they were when they do not grow."""
    waiting = array.array("i", [0])
    for _ in range(300):
        fcntl.ioctl(sock, termios.FIONREAD, waiting)
        if waiting[0] > more_than:
            break
        with selectors.DefaultSelector() as nothing:
            nothing.select(0.01)
    return waiting[0]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 5000,
        b"GET /healthz HTTP/1.1\r\n" + b"a:b\r\n" * 5000,
        b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 100_000,
    ],
    ids=["pipelined", "headers", "head"],
)
def test_what_would_fill_memory_before_it_is_a_request_is_ended(quick: Daemon, request_bytes: bytes) -> None:
    with connect(quick) as sock:
        with suppress(OSError):
            sock.sendall(request_bytes)
        assert ended_after_all(sock) < SOON_S
    assert quick.get("/healthz").status_code == 200


def head_of(length_bytes: int) -> bytes:
    start = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: "
    return start + b"y" * (length_bytes - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("length_bytes", [MAX_HEAD_BYTES + 1, 60_000, 200_000])
def test_a_head_that_is_too_long_is_refused_although_it_arrives_at_once(quick: Daemon, length_bytes: int) -> None:
    with connect(quick) as sock:
        with suppress(OSError):
            sock.sendall(head_of(length_bytes))
        status, body = read_answer(sock)
    assert (status, error_code(body)) == (400, "invalid_request") and b"longer than 32768 bytes" in body


def test_only_the_bytes_of_one_head_count(quick: Daemon) -> None:
    """Neither those of the body behind it, nor those of the next request."""
    with connect(quick) as sock:
        sock.sendall(head_of(MAX_HEAD_BYTES))
        assert read_answer(sock)[0] == 200
    key = quick.add_tenant("acme")
    body = json.dumps({"prompt": "x", "max_tokens": 1, "user": "y" * 150_000}).encode()
    with connect(quick) as sock:
        sock.sendall(head(key, len(body)) + body)
        assert read_answer(sock)[0] == 200
    with connect(quick) as sock:
        sock.sendall(head_of(20_000) * 5)
        assert read_to(sock, lambda text: text.count(b"HTTP/1.1 200") == 5)


def test_a_head_of_which_a_part_came_with_the_request_before_is_whole(quick: Daemon) -> None:
    """Though that one was answered before the rest came."""
    with connect(quick) as sock:
        sock.sendall(REQUEST + REQUEST[:12])
        assert read_answer(sock)[0] == 200
        sock.sendall(REQUEST[12:])
        assert read_answer(sock)[0] == 200


def test_idle_connections_hold_nothing_of_what_they_sent(tmp_path: Path) -> None:
    allow_descriptors(4096)
    with Daemon(tmp_path) as daemon, ExitStack() as stack:
        assert daemon.process is not None
        process = psutil.Process(daemon.process.pid)
        before_bytes = process.memory_info().rss
        for _ in range(600):
            sock = stack.enter_context(connect(daemon))
            sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 30_000 + b"\r\n\r\n")
            assert read_answer(sock)[0] == 200
        assert process.memory_info().rss - before_bytes < 600 * 30_000


def test_a_user_at_its_limit_loses_what_it_does_not_use_and_then_is_refused(tmp_path: Path) -> None:
    settings = {"server": {"max_connections_per_uid": 10}, "engine": {"slots": 16, "fake_step_micros": 20_000}}
    with Daemon(tmp_path, **settings) as daemon, ExitStack() as stack:
        key = daemon.add_tenant("acme")
        idle = [stack.enter_context(connect(daemon)) for _ in range(10)]
        body = json.dumps({"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
        running = [stack.enter_context(connect(daemon)) for _ in range(10)]
        for sock in running:
            sock.sendall(head(key, len(body)) + body)
            assert sock.recv(12) == b"HTTP/1.1 200"
        assert all(is_closed(sock) for sock in idle)
        with connect(daemon) as sock:  # of the daemon's own user: to administer, and for nothing else
            sock.sendall(head(key, len(body)) + body)
            status, answer = read_answer(sock)
            assert (status, error_code(answer)) == (429, "too_many_connections")
        assert daemon.get("/admin/v1/status").status_code == 200
        assert not any(is_closed(sock) for sock in running)


def test_a_stranger_at_its_limit_is_refused_and_keeps_what_it_has(crowded: Daemon) -> None:
    key = crowded.add_tenant("acme", limits={"max_queued": 1000})
    body = json.dumps({"prompt": "x", "max_tokens": 100_000, "ignore_eos": True, "stream": True}).encode()
    with strangers(crowded.socket, USUAL // 2, head(key, len(body)) + body):
        wait_until(lambda: crowded.status()["running"] + crowded.status()["waiting"] == USUAL // 2, "its requests")
        with strangers(crowded.socket, 1, REQUEST, patience_s=20) as more:
            assert more.answer == "429"
        counted = 'tenantd_refusals_total{cause="too_many_connections",tenant=""} 1.0'
        assert counted in crowded.get("/metrics").text.splitlines()
        assert crowded.status()["running"] + crowded.status()["waiting"] == USUAL // 2


def test_a_key_at_its_limit_is_refused_and_others_are_not(tmp_path: Path) -> None:
    settings = {"server": {"max_connections_per_key": 5}, "engine": {"fake_step_micros": 20_000}}
    with Daemon(tmp_path, **settings) as daemon, ExitStack() as stack:
        key, other = daemon.add_tenant("acme"), daemon.add_tenant("globex")
        body = json.dumps({"prompt": "x", "max_tokens": 1, "ignore_eos": True}).encode()

        def ask(shown: str) -> tuple[int, bytes]:
            sock = stack.enter_context(connect(daemon))
            sock.sendall(head(shown, len(body)) + body)
            return read_answer(sock)

        assert [ask(key)[0] for _ in range(5)] == [200] * 5
        status, answer = ask(key)
        assert (status, error_code(answer)) == (429, "too_many_connections")
        assert ask(other)[0] == 200
        stack.close()
        wait_until(lambda: ask(key)[0] == 200, "its connections to be counted no more")


def test_two_thousand_streams_of_one_user_pass(tmp_path: Path) -> None:
    allow_descriptors(8192)
    settings = {"engine": {"slots": 64}}
    with Daemon(tmp_path, **settings) as daemon, ExitStack() as stack:
        key = daemon.add_tenant("acme", limits={"max_queued": STREAMS})
        body = json.dumps({"prompt": "x", "max_tokens": 2, "ignore_eos": True, "stream": True}).encode()
        socks = [stack.enter_context(connect(daemon, 120)) for _ in range(STREAMS)]
        for sock in socks:
            sock.sendall(head(key, len(body)) + body)
        assert all(read_to(sock, lambda text: b"data: [DONE]" in text) for sock in socks)


def read_to(sock: socket.socket, is_enough: Callable[[bytes], bool]) -> bool:
    received = b""
    while data := sock.recv(1 << 16):
        received += data
        if is_enough(received):
            return True
    return False


def test_a_pipeline_that_is_cut_leaves_nothing_in_the_log(tmp_path: Path) -> None:
    """Its first request is being answered meanwhile."""
    with Daemon(tmp_path, engine={"fake_step_micros": 2000}) as daemon:
        key = daemon.add_tenant("acme")
        body = json.dumps({"prompt": "x", "max_tokens": 1}).encode()
        pipeline = (head(key, len(body)) + body) * 40
        before = daemon.log.stat().st_size
        for _ in range(50):
            with connect(daemon) as sock, suppress(ConnectionResetError, BrokenPipeError):
                sock.sendall(pipeline)
                while sock.recv(1 << 16):
                    pass
        wait_until(lambda: not daemon.status()["running"] + daemon.status()["waiting"], "what was begun to end")
        assert daemon.log.read_bytes()[before:] == b""
        assert daemon.complete("acme", max_tokens=1).status_code == 200


def test_clients_that_leave_amid_their_answers_leave_no_complaint_in_the_log(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        key = daemon.add_tenant("acme")
        refused = json.dumps({"prompt": "", "max_tokens": 1}).encode()
        right = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
        before = daemon.log.stat().st_size
        for number in range(600):
            body = (refused, right)[number % 2]
            with connect(daemon) as sock:
                sock.sendall((head(key, len(body)) + body) * 8)
                select.select([sock], [], [], number % 40 / 4000)  # and leave, answered or not
        wait_until(lambda: not daemon.status()["running"] + daemon.status()["waiting"], "what was begun to end")
        written = daemon.log.read_text()[before:].splitlines()
        assert not [line for line in written if " INFO request " not in line], "one line for each request, no more"
        assert 'cause="internal_error"' not in daemon.get("/metrics").text
