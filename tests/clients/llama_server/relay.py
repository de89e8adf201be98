"""What llama-server's own tests start instead of llama-server: `python -S relay.py FLAGS`, and FARM is set.

It asks the farm for a daemon that is set up as the flags say, and listens on the port that the tests want. What comes
in there goes to the daemon as it is, but for three things that llama-server does not have: a request gets the tenant's
key if the tests need none, or sent theirs; a request names the model that is served, because llama-server ignores the
name; and /health is /healthz. The tests start it for each test, so it imports nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from typing import Any

LONGEST_HEAD = 65_536
"""Maximum bytes of a request's line and headers."""


def daemon_for(flags: list[str]) -> dict[str, Any]:
    """Where it is: `address`, `key`, `model`; and of the flags the `hosts`, `port` and `secret`: the key that the tests
    know, None if they send none."""
    with socket.socket(socket.AF_UNIX) as farm:
        farm.connect(os.environ["FARM"])
        farm.sendall(json.dumps(flags).encode() + b"\n")
        with farm.makefile() as answer:
            given: dict[str, Any] = json.loads(answer.readline())
    return given


def rewritten(head: bytes, body: bytes, given: dict[str, Any]) -> bytes:
    """The request as tenantd is to get it."""
    line, *headers = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    line = re.sub(r"^(\S+) /health(?=[ ?])", r"\1 /healthz", line)
    fields = [(name.strip(), value.strip()) for name, _, value in (header.partition(":") for header in headers)]
    sent = [value.removeprefix("Bearer ") for name, value in fields if name.lower() in ("authorization", "x-api-key")]
    if given["secret"] is None or given["secret"] in sent:
        fields = [each for each in fields if each[0].lower() not in ("authorization", "x-api-key")]
        fields.append(("Authorization", f"Bearer {given['key']}"))
    with contextlib.suppress(ValueError):
        if isinstance(content := json.loads(body), dict) and "model" in content:
            body = json.dumps({**content, "model": given["model"]}).encode()
            fields = [each for each in fields if each[0].lower() != "content-length"]
            fields.append(("Content-Length", str(len(body))))
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields), "", ""]).encode("latin-1") + body


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: dict[str, Any]) -> None:
    """One connection: requests one after the other, answers as they come."""
    there_reader, there_writer = await asyncio.open_connection(*given["address"])

    async def answers() -> None:
        while data := await there_reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    answering = asyncio.create_task(answers())
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
            there_writer.write(rewritten(head, body, given))
            await there_writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        there_writer.close()  # the client has left: so does the request
    finally:
        with contextlib.suppress(ConnectionError):
            await answering
        writer.close()


async def serve(given: dict[str, Any]) -> None:
    """Relay until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await asyncio.start_server(
        lambda reader, writer: relay(reader, writer, given), given["hosts"], given["port"], limit=LONGEST_HEAD
    )
    async with server:
        await stopped.wait()
        os._exit(0)  # with whatever is still on its way


if __name__ == "__main__":
    asyncio.run(serve(daemon_for(sys.argv[1:])))
