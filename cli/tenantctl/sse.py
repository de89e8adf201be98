"""Reads server-sent events, for `run`, `demo` and `bench`.

Follows the HTML standard's rules for event streams. Works on bytes, so a chunk may end anywhere, even inside a
character.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tenantctl.failures import error_from
from tenantd.errors import TenantdError

DONE: Final = b"[DONE]"
"""Data of the event that ends a complete answer."""
_DATA: Final = b"data: "
_BOUNDARY: Final = b"\n\n"
_BETWEEN: Final = _BOUNDARY + _DATA
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FIELDS: Final = (b"data", b"error")
"""The fields that are read. Older llama-servers send errors in a field of their own."""


class Unfinished(Exception):
    """The stream ended before its [DONE], so the answer is incomplete."""


class EventReader:
    """One event stream that arrives in chunks."""

    def __init__(self) -> None:
        self._rest = b""  # of a line, or of an event in the usual form
        self._data: list[bytes] = []  # of the event whose empty line has not arrived yet
        self._after_cr = False  # a \n that comes next belongs to the \r before it
        self._is_first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that is now complete; events without data are skipped."""
        if self._after_cr and chunk:
            chunk, self._after_cr = chunk.removeprefix(b"\n"), False
        text = self._rest + chunk if self._rest else chunk
        if text.startswith(_DATA) and not self._data and b"\r" not in text:
            last = text.rfind(_BOUNDARY)
            events = text[len(_DATA) : last].split(_BETWEEN)
            end = last + len(_BOUNDARY)
            if text.count(b"\n", 0, end) == 2 * len(events):  # nothing but `data: …` and empty lines
                self._rest, self._is_first = text[end:], False
                return events
        return self._by_lines(text)

    def _by_lines(self, text: bytes) -> list[bytes]:
        """Handles everything that a stream may contain; `feed` is a fast path for the usual form."""
        self._after_cr = text.endswith(b"\r")
        *lines, self._rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return [event for line in lines if (event := self._on_line(line)) is not None]

    def _on_line(self, line: bytes) -> bytes | None:
        """The data of the event that `line` ends, if it ends one."""
        if self._is_first:
            line, self._is_first = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")  # a comment has no name
        if name in _FIELDS:
            self._data.append(value.removeprefix(b" "))
        return None


def answer_events(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The JSON of each event of a streamed answer, until its [DONE].

    Raises the error that an event contains, TenantdError if an event is not JSON, and Unfinished.
    """
    reader = EventReader()
    for chunk in chunks:
        for data in reader.feed(chunk):
            if data == DONE:
                return
            try:
                event = json.loads(data)
            except ValueError as e:
                raise TenantdError(f"an event without JSON: is this the socket of tenantd? {data[:80]!r}") from e
            if isinstance(event, dict) and "error" in event:
                raise error_from(event)
            yield event
    raise Unfinished
