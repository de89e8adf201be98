"""A lean streaming client and the servers to point it at. Counts SSE events without parsing their JSON.

The same client measures every target, so that its own cost is the same for all of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools
import tomli_w

START_TIMEOUT_S = 120


@dataclass(frozen=True)
class Target:
    """Where a server listens: a Unix socket, or a TCP port on loopback. `pids` are its processes."""

    name: str
    path: Path | None = None
    port: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()
    pids: tuple[int, ...] = ()


@dataclass
class Result:
    """One streamed answer. Times are perf_counter seconds."""

    sent_s: float
    first_s: float = 0.0
    done_s: float = 0.0
    events: int = 0
    completion_tokens: int = 0
    status: int = 0

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.sent_s


class _Stream(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self.done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.result = Result(0.0)
        self._parser = httptools.HttpResponseParser(self)
        self._tail = b""
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.result.sent_s = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        text = self._tail + body
        events = text.count(b"data: {")
        if events and not self.result.events:
            self.result.first_s = time.perf_counter()
        self.result.events += events
        self._tail = text[-6:] if not text.endswith(b"\n") else b""
        self._body += body
        del self._body[:-2048]

    def on_message_complete(self) -> None:
        self.result.done_s = time.perf_counter()
        self.result.status = self._parser.get_status_code()
        marker = self._body.rfind(b'"completion_tokens":')
        if marker >= 0:
            digits = self._body[marker + 20 : marker + 32].strip()
            self.result.completion_tokens = int(digits.split(b",")[0].split(b"}")[0])
        if not self.done.done():
            self.done.set_result(self.result)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError(f"closed early: {bytes(self._body)!r}"))


async def stream(target: Target, body: dict[str, Any], url: str = "/v1/completions") -> Result:
    """POST `body` as a stream, on a connection of its own."""
    payload = json.dumps(
        {**body, **dict(target.extra), "stream": True, "stream_options": {"include_usage": True}}
    ).encode()
    head = [f"POST {url} HTTP/1.1", "host: bench", "content-type: application/json", f"content-length: {len(payload)}"]
    head += [f"{name}: {value}" for name, value in target.headers]
    request = "\r\n".join(head).encode() + b"\r\n\r\n" + payload
    loop = asyncio.get_running_loop()
    if target.path is not None:
        _, protocol = await loop.create_unix_connection(lambda: _Stream(request), str(target.path))
    else:
        _, protocol = await loop.create_connection(lambda: _Stream(request), "127.0.0.1", target.port)
    result = await protocol.done
    if result.status != 200:
        raise RuntimeError(f"{target.name} answered {result.status}: {bytes(protocol._body)!r}")
    return result


def admin(path: Path, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    """One request to tenantd's admin API."""
    import httpx

    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://tenantd", timeout=30) as client:
        answer = client.request(method, url, json=body)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def tenantd(config: dict[str, Any], tenants: dict[str, dict[str, Any]]) -> Iterator[Target]:
    """A daemon in a temporary folder, ready, with these tenants; requests go to the first unless a header says so."""
    with tempfile.TemporaryDirectory(prefix="tenantd-bench-") as folder:
        path = Path(folder) / "tenantd.sock"
        file = Path(folder) / "config.toml"
        settings = {**config, "ledger": {"state_dir": folder}, "server": {"socket": str(path)}}
        file.write_text(tomli_w.dumps(settings))
        process = subprocess.Popen([sys.executable, "-m", "tenantd", "--config", str(file)], stderr=subprocess.PIPE)
        try:
            _wait_ready(process, lambda: admin(path, "GET", "/readyz"))
            for name, settings in tenants.items():
                admin(path, "POST", "/admin/v1/tenants", {"name": name, **settings})
            children = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
            ).stdout.split()
            pids = (process.pid, *map(int, children))
            yield Target("tenantd", path=path, headers=(("x-tenant", next(iter(tenants))),), pids=pids)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@contextmanager
def llama_server(binary: Path, model: Path, slots: int, context_tokens: int, threads: int) -> Iterator[Target]:
    """llama-server on a free loopback port, with the same slots, context and threads; its prompt cache off."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["-m", model, "--host", "127.0.0.1", "--port", port, "-np", slots, "-c", slots * context_tokens]
    arguments += ["-t", threads, "-tb", threads, "--no-kv-unified", "--cache-ram", "0"]
    process = subprocess.Popen(
        [str(binary), *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    try:
        _wait_ready(process, lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read())
        yield Target("llama-server", port=port, extra=(("cache_prompt", False),), pids=(process.pid,))
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_ready(process: subprocess.Popen[bytes], probe: Any) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            stderr = process.stderr.read().decode() if process.stderr else ""
            raise RuntimeError(f"the server ended with {process.returncode}: {stderr}")
        try:
            probe()
            return
        except Exception:  # not up yet, in whatever way
            time.sleep(0.1)
    raise TimeoutError("the server did not become ready")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    return {"cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0]}


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
