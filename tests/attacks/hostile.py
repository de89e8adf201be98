"""Clients on TCP that are slow, rude or broken, in a process of their own.

`python -m tests.attacks.hostile HOST PORT COUNT KEY [CA]` keeps COUNT connections at it until its standard input is
closed, and prints a line when they have begun. KEY is that of a tenant of theirs. With CA they speak TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
import sys
from collections.abc import Awaitable, Callable

PAUSE_S = 0.1
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Greeter = Callable[[], Awaitable[Stream]]


class Rude:
    """Ways to be a nuisance, each on one connection until the server ends it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def _head(self, path: str, length_bytes: int, key: str = "") -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key or self._key}\r\n"
            f"content-length: {length_bytes}\r\n\r\n"
        ).encode()

    async def silent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says nothing."""
        await reader.read()

    async def slow_head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A byte now and then."""
        writer.write(b"GET /healthz HTTP/1.1\r\nx-slow: ")
        await self._drip(writer)

    async def slow_body(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Announces a large body and sends a byte now and then."""
        writer.write(self._head("/v1/completions", 1 << 20))
        await self._drip(writer)

    async def reads_nothing(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Has a long answer generated and does not read it."""
        body = json.dumps({"prompt": "x" * 200, "max_tokens": 2000, "stream": True, "ignore_eos": True}).encode()
        writer.write(self._head("/v1/completions", len(body)) + body)
        await asyncio.sleep(20)

    async def wrong_keys(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tries one key after the other."""
        for number in itertools.count():
            writer.write(self._head("/v1/completions", 0, key=f"td_{number}"))
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(PAUSE_S)

    async def garbage(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Bytes that are not HTTP."""
        writer.write(bytes(range(256)) * 100)
        await reader.read()

    async def endless_head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Headers without an end."""
        writer.write(b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 20_000)
        await reader.read()

    async def in_and_out(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leaves at once."""

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"y")
            await asyncio.sleep(PAUSE_S)

    def all(self) -> list[Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]]:
        return [
            self.silent,
            self.slow_head,
            self.slow_body,
            self.reads_nothing,
            self.wrong_keys,
            self.garbage,
            self.endless_head,
            self.in_and_out,
        ]


async def keep_on(greet: Greeter, way: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
    """Again and again, each time on a connection of its own."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            reader, writer = await greet()
            try:
                await way(reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(PAUSE_S)


async def main() -> None:
    """See the module."""
    host, port, count, key, *ca = sys.argv[1:]
    tls = ssl.create_default_context(cafile=ca[0]) if ca else None

    def greet() -> Awaitable[Stream]:
        return asyncio.open_connection(host, int(port), ssl=tls)

    ways = itertools.cycle(Rude(key).all())
    tasks = [asyncio.create_task(keep_on(greet, next(ways))) for _ in range(int(count))]
    await asyncio.sleep(0)
    print("begun", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
