"""Clients that do not behave: bytes on a socket, as slowly and as few as an attacker likes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.daemon import Daemon
from tests.support.program import stranger_uid

TIMEOUT_S = 120


def connect(daemon: Daemon, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A connection, for `with`."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout_s)
    sock.connect(str(daemon.socket))
    return sock


def head(key: str, length_bytes: int, path: str = "/v1/completions") -> bytes:
    """Of a POST whose body has `length_bytes`."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: tenantd\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {length_bytes}\r\n\r\n"
    ).encode()


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """Status and everything after it, until the daemon closes or has sent what it announced."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            received += data
            before, found, body = received.partition(b"\r\n\r\n")
            announced = [line for line in before.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if found and announced and len(body) >= int(announced[0].split(b":")[1]):
                break
    return (int(received.split(b" ")[1]) if received else 0), received.partition(b"\r\n\r\n")[2]


def error_code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


def allow_descriptors(wanted: int) -> None:
    """For this process, which holds one end of every connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


class Held(NamedTuple):
    """How many connections could be made, refused ones among them, and the status the last was answered ("-": none)."""

    count: int
    answer: str


_HOLDER = """
import contextlib, os, resource, socket, sys
path, uid, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
said, patience_s = bytes.fromhex(sys.argv[4]), float(sys.argv[5])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
held, answer = [], "-"
for _ in range(count):
    with contextlib.suppress(OSError):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(60)
        sock.connect(path)
        held.append(sock)
        if said:
            sock.send(said)
if held and patience_s:
    held[-1].settimeout(patience_s)
    with contextlib.suppress(OSError, IndexError):
        answer = held[-1].recv(1000).split(b" ")[1].decode()
print(len(held), answer, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def strangers(socket_path: Path, count: int, said: bytes = b"", patience_s: float = 0) -> Iterator[Held]:
    """`count` connections of another user (where nobody can become one, of this one), each of which has sent `said`.

    The last one waits `patience_s` for an answer.
    """
    arguments = [str(socket_path), str(stranger_uid()), str(count), said.hex(), str(patience_s)]
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        held, answer = process.stdout.readline().split()
        yield Held(int(held), answer)
    finally:
        process.stdin.close()
        process.wait(300)
        process.stdout.close()


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """One that every user may enter; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="tenantd-") as name:
        os.chmod(name, 0o711)
        yield Path(name)
