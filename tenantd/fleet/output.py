"""The output of the engine process: logged, and kept to explain why it ended."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from typing import Final

log = logging.getLogger("tenantd.engine.output")

KEPT_LINES: Final = 40
MAX_LINE_BYTES: Final = 4096
_CAUSE: Final = re.compile(r"GGML_ASSERT|GGML_ABORT|terminate called|CUDA error|out of memory|engine broken|Error\b")
"""Lines that explain a crash. llama.cpp prints its backtrace after them, so the last line rarely does."""


class Output(asyncio.Protocol):
    """Standard output and error of one engine process, line by line. `ended` is done at the end of file."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._cause = ""
        self._partial = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._partial + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(rest) > MAX_LINE_BYTES:  # do not keep endless progress dots
            self._take(rest)
            rest = b""
        self._partial = rest

    def connection_lost(self, exc: Exception | None) -> None:
        self._take(self._partial)
        self._partial = b""
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        """Stop reading, even if a process still holds the other end."""
        if self._transport is not None:
            self._transport.close()

    @property
    def last_words(self) -> str:
        """The line that probably explains the end: one that looks like a cause, else the last."""
        return self._cause or (self.lines[-1] if self.lines else "")

    def _take(self, line: bytes) -> None:
        text = line[:MAX_LINE_BYTES].decode("utf-8", "replace").strip()
        if not text:
            return
        log.debug("%s", text)
        self.lines.append(text)
        if _CAUSE.search(text):
            self._cause = text
