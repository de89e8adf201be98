"""A tenant that sends one small request after the other, in a process of its own so that it measures only the daemon.

`python -m tests.attacks.neighbour SOCKET KEY` prints a line for each request, `SECONDS STATUS`, until its standard
input is closed. Standard library only: it starts at once.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import sys
import time

PAUSE_S = 0.05
BURN_S = 0.004
TIMEOUT_S = 120


class UnixConnection(http.client.HTTPConnection):
    """One request over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("tenantd", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def main() -> None:
    """See the module."""
    path, key = sys.argv[1:]
    body = json.dumps({"prompt": "hello", "max_tokens": 4, "ignore_eos": True, "temperature": 0})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        started_s = time.monotonic()
        status = ask(path, body, headers)
        took_s = time.monotonic() - started_s
        print(f"{took_s:.4f} {status} {slowness():.2f}", flush=True)


def slowness() -> float:
    """How much longer than the CPU time it needs something takes now; 1 while a CPU is free."""
    began_s, began_cpu_s = time.monotonic(), time.thread_time()
    while (cpu_s := time.thread_time() - began_cpu_s) < BURN_S:
        pass
    return max(1.0, (time.monotonic() - began_s) / cpu_s)


def ask(path: str, body: str, headers: dict[str, str]) -> int:
    """The status of one whole request on a connection of its own; 0 when there is no answer."""
    connection = UnixConnection(path)
    try:
        connection.request("POST", "/v1/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError:
        return 0
    finally:
        connection.close()


if __name__ == "__main__":
    main()
