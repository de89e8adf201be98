"""A server that webhooks are sent to, and that behaves as a test wants."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Hook:
    """Remembers what it was sent. `statuses` are its next answers, 200 when they are used up; "hang" gives none, "drip"
    one that never ends. Use as a context manager."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.statuses: list[int | str] = []
        self.released = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token=verysecret"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        status = self.statuses.pop(0) if self.statuses else 200
        self.received.append({**json.loads(body), "path": request.path, "type": request.headers["content-type"]})
        if status == "hang":
            self.released.wait(60)
            return
        with contextlib.suppress(OSError):  # it has hung up
            if status == "drip":
                request.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
                while not self.released.wait(0.02):
                    request.wfile.write(b"x")
                return
            request.send_response(int(status))
            if status == 302:
                request.send_header("location", self.url)
            request.send_header("content-length", "0")
            request.end_headers()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def refusing_address() -> Iterator[str]:
    """Host and port where nobody listens, nor can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
