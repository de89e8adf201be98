"""What a JSON body holds, counted without making an object of any value.

The parser holds the interpreter's lock from the first byte to the last, and with it the event loop, so what it may be
given is bounded by what makes it slow: 65,536 texts, objects and lists take it 20 ms, a million numbers 65 ms.
"""

from __future__ import annotations

from typing import Final

from tenantd.errors import InvalidRequest

MOST_CONTAINED: Final = 1 << 16
"""Texts (names of fields too), objects and lists in one body."""
MOST_VALUES: Final = 1 << 20
"""Values of any kind. A prompt of token ids has one for each."""
MOST_BARE_BYTES: Final = 16 * 1024 * 1024
"""Bytes outside texts: a number may have thousands of digits."""
SLICE_BYTES: Final = 128 * 1024


def check_values(body: bytes) -> None:
    """Raises InvalidRequest for a body with too many values. Goes in slices: none takes a millisecond.

    Exact for JSON; anything else the parser refuses where it stops being JSON, having read no more than was counted.
    """
    quotes = containers = commas = bare_bytes = 0
    rest, in_text = b"", False
    for start in range(0, len(body), SLICE_BYTES):
        # Escaped backslashes go first: what is left of a run of them tells whether a quote behind it ends the text.
        piece = (rest + body[start : start + SLICE_BYTES]).replace(b"\\\\", b"")
        rest = b"\\" if piece.endswith(b"\\") else b""
        parts = piece.removesuffix(b"\\").replace(b'\\"', b"").split(b'"')
        for part in parts[in_text::2]:
            bare_bytes += len(part)
            commas += part.count(b",")
            containers += part.count(b"{") + part.count(b"[")
        quotes += len(parts) - 1
        in_text = quotes % 2 == 1
        if quotes // 2 + containers > MOST_CONTAINED:
            raise InvalidRequest(f"the request body has more than {MOST_CONTAINED} texts, objects and lists")
        if commas > MOST_VALUES:
            raise InvalidRequest(f"the request body has more than {MOST_VALUES} values")
        if bare_bytes > MOST_BARE_BYTES:
            raise InvalidRequest(f"the request body has more than {MOST_BARE_BYTES} bytes outside texts")
