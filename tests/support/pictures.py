"""Image files, written and broken without a library for them."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np


def png(seed: int = 1, width: int = 40, height: int = 30) -> bytes:
    """Random pixels."""
    rows = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return _png(width, height, b"".join(b"\0" + row.tobytes() for row in rows))


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A few kilobytes that claim to be a huge image."""
    return _png(width, height, bytes(1_000_000))


def _png(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def address(file: bytes, kind: str = "png") -> str:
    """As a client sends it."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def part(file: bytes, **more: Any) -> dict[str, Any]:
    """A part of a message's content."""
    return {"type": "image_url", "image_url": {"url": address(file), **more}}


def message(*parts: str | dict[str, Any] | bytes) -> dict[str, Any]:
    """A user's message of texts and images."""
    content = [
        part(each) if isinstance(each, bytes) else {"type": "text", "text": each} if isinstance(each, str) else each
        for each in parts
    ]
    return {"role": "user", "content": content}
