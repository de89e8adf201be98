"""Clients on TCP that ask as fast as they can and show no right key, in a process of their own.

`python -m tests.attacks.keyless HOST PORT COUNT WAY` keeps COUNT connections at it until its standard input is closed,
and prints a line when they have had ENOUGH answers, and at the end how many there were.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable
from typing import Final

PIPELINED: Final = 8
ENOUGH: Final = 32  # what one address is given at once
_numbers = itertools.count()


def _ask(line: str, header: str = "x: y") -> bytes:
    return f"{line} HTTP/1.1\r\nhost: localhost\r\n{header}\r\ncontent-length: 0\r\n\r\n".encode()


WAYS: Final[dict[str, Callable[[], bytes]]] = {
    "wrong keys": lambda: _ask("POST /v1/completions", f"authorization: Bearer td_{next(_numbers)}"),
    "health": lambda: _ask("GET /healthz"),
    "no route": lambda: _ask("GET /" + "a/" * 1000),
    "many headers": lambda: _ask("GET /healthz", "\r\n".join(f"x{number}: y" for number in range(90))),
}


class Crowd:
    """All of them; `answers` counts."""

    def __init__(self, host: str, port: int, way: str) -> None:
        self._host, self._port, self._make = host, port, WAYS[way]
        self.answers = 0

    async def one(self) -> None:
        """Asks on one connection after the other, each until the server ends it."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    while True:
                        writer.write(b"".join(self._make() for _ in range(PIPELINED)))
                        for _ in range(PIPELINED):
                            await self._read(reader)
                finally:
                    writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, _, length = head.partition(b"content-length: ")
        await reader.readexactly(int(length.split(b"\r\n", 1)[0] or 0))
        self.answers += 1


async def main() -> None:
    """See the module."""
    host, port, count, way = sys.argv[1:]
    crowd = Crowd(host, int(port), way)
    tasks = [asyncio.create_task(crowd.one()) for _ in range(int(count))]
    while crowd.answers <= ENOUGH:
        await asyncio.sleep(0.01)
    print("begun", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(crowd.answers, flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
