"""Where the load generator sends requests, and its lean client for any server (`tenantctl.client` is for the daemon).

The client counts the tokens of a stream without parsing JSON, because it shares the machine with the server.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

from tenantctl.bench.observed import Clock, Outcome, Record
from tenantctl.sse import DONE, EventReader
from tenantd.errors import InvalidRequest

CONNECT_TIMEOUT_S: Final = 10.0
KEPT_BYTES: Final = 4096
"""Maximum size that is read of an answer that is not a stream; it contains the reason."""
_REFUSALS: Final = (429, 503)
_TOKEN: Final = b'"finish_reason":null'
_SPACED_TOKEN: Final = b'"finish_reason": null'
"""Part of each event with a token, but not of the last ones. Text cannot contain it, because its quotes are escaped."""
_NO_TOKEN: Final = (b'"finish_reason"', b'"usage"')
_ERROR: Final = re.compile(rb'\s*\{\s*"(?:error|code)"')
_USAGE: Final = {
    "prompt_tokens": re.compile(rb'"prompt_tokens":\s?(\d+)'),
    "output_tokens": re.compile(rb'"completion_tokens":\s?(\d+)'),
}


@dataclass(frozen=True)
class Target:
    """Where a server listens: a Unix socket, or a host and port. `base` is the path before /completions, `extra`
    are fields for every body, and `pids` are the server's processes, if known."""

    name: str
    path: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    base: str = "/v1"
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()
    pids: tuple[int, ...] = ()

    def with_key(self, api_key: str) -> Target:
        """The same target, using this API key."""
        headers = tuple(h for h in self.headers if h[0].lower() != "authorization")
        return replace(self, headers=(*headers, ("authorization", f"Bearer {api_key}")))

    def acting_for(self, tenant: str) -> Target:
        """The same target, acting for a tenant, as an administrator of tenantd may."""
        headers = tuple(h for h in self.headers if h[0].lower() != "x-tenant")
        return replace(self, headers=(*headers, ("x-tenant", tenant)))


def target_at(url: str, *, api_key: str = "", extra: tuple[tuple[str, Any], ...] = ()) -> Target:
    """The target for the URL of an OpenAI-compatible server, like http://127.0.0.1:8080/v1. Raises InvalidRequest."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise InvalidRequest(f"--url: {url!r}: {e}") from e
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"--url: not an HTTP URL: {url!r}; write it like http://127.0.0.1:8080/v1")
    tls = parts.scheme == "https"
    return Target(
        parts.netloc.rpartition("@")[2],
        host=parts.hostname,
        port=port or (443 if tls else 80),
        base=parts.path.rstrip("/"),
        tls=tls,
        headers=(("authorization", f"Bearer {api_key}"),) if api_key else (),
        extra=extra,
    )


def request_bytes(target: Target, body: dict[str, Any]) -> bytes:
    """The bytes of an HTTP request for a streamed completion."""
    streamed = {**body, **dict(target.extra), "stream": True, "stream_options": {"include_usage": True}}
    payload = json.dumps(streamed).encode()
    name = f"[{target.host}]" if ":" in target.host else target.host
    host = "tenantd" if target.path else f"{name}:{target.port}"
    head = [f"POST {target.base}/completions HTTP/1.1", f"host: {host}", "content-type: application/json"]
    head += [f"content-length: {len(payload)}", *(f"{name}: {value}" for name, value in target.headers)]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + payload


async def send(target: Target, body: dict[str, Any], record: Record, clock: Clock = time.perf_counter) -> None:
    """POST `body` as a stream on its own connection, and record the outcome in `record`.

    Failures of the server are recorded, not raised. A cancelled task closes the connection; its record ends as CUT.
    """
    request = request_bytes(target, body)
    record.begin(clock())
    protocol: _Stream | None = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            protocol = await _connect(target, record, clock)
        protocol.write(request)
        await protocol.ended
    except OSError as e:  # TimeoutError is one
        record.end(clock(), Outcome.FAILED, f"cannot connect to {target.name}: {e or 'timed out'}")
    except asyncio.CancelledError:
        record.end(clock(), Outcome.CUT)
        raise
    finally:
        if protocol is not None:
            protocol.close()


async def _connect(target: Target, record: Record, clock: Clock) -> _Stream:
    loop = asyncio.get_running_loop()

    def factory() -> _Stream:
        return _Stream(record, clock)

    if target.path is not None:
        return (await loop.create_unix_connection(factory, str(target.path)))[1]
    tls = ssl.create_default_context() if target.tls else None
    return (await loop.create_connection(factory, target.host, target.port, ssl=tls))[1]


class _Stream(asyncio.Protocol):
    """Reads one answer."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._parser = httptools.HttpResponseParser(self)
        self._reader = EventReader()
        self._is_done = False
        self._error: bytes | None = None  # an event inside the stream
        self._kept = bytearray()
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write(self, request: bytes) -> None:
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._end(Outcome.FAILED, f"not HTTP: {e}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_done:  # a body that ends when the connection closes
            self._end_of_body()
        else:
            self._end(Outcome.FAILED, f"the connection was closed early{f': {exc}' if exc else ''}")

    # -- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():
            self._record.retry_after_s = float(value)

    def on_headers_complete(self) -> None:
        self._record.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._record.status != 200:
            self._kept += body[: KEPT_BYTES - len(self._kept)]
            return
        tokens = 0
        for data in self._reader.feed(body):
            if _TOKEN in data or self._on_other(data):
                tokens += 1
        if tokens:
            self._record.add_tokens(self._clock(), tokens)

    def on_message_complete(self) -> None:
        self._end_of_body()

    def _on_other(self, data: bytes) -> bool:
        """Handle an event without the usual beginning. True if it has a token, in JSON that is written differently."""
        if _SPACED_TOKEN in data:
            return True
        if data == DONE:
            self._is_done = True
        elif _ERROR.match(data):
            self._error = data
        elif not any(name in data for name in _NO_TOKEN):
            return data.startswith(b"{")
        else:
            for name, pattern in _USAGE.items():
                if found := pattern.findall(data):
                    setattr(self._record, name, int(found[-1]))
        return False

    # -- the end

    def _end_of_body(self) -> None:
        status = self._record.status
        if status in _REFUSALS:
            self._end(Outcome.REFUSED, _reason(bytes(self._kept), status))
        elif status != 200:
            self._end(Outcome.FAILED, _reason(bytes(self._kept), status))
        elif self._error is not None:
            self._end(Outcome.FAILED, _reason(self._error, status))
        else:
            self._end(Outcome.DONE)

    def _end(self, outcome: Outcome, message: str = "") -> None:
        self._record.end(self._clock(), outcome, message)
        if not self.ended.done():
            self.ended.set_result(None)


def _reason(body: bytes, status: int) -> str:
    """The server's error message: from an error in OpenAI's form, or the text itself."""
    try:
        said = json.loads(body)
        error = said.get("error", said)
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body[:200].decode("utf-8", "replace").strip()
    return f"HTTP {status}: {text}"
