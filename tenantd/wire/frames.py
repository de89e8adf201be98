"""Messages as bytes: one stream socket, frames of a 4-byte big-endian length and a msgpack body.

A frame over `MAX_FRAME_BYTES` is a bug on the other side: both ends refuse it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tenantd.wire.messages import Event, Inbox

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
HEADER_BYTES: Final = 4


class FrameTooLarge(Exception):
    """A frame announced more bytes than `MAX_FRAME_BYTES`."""


_encoder = msgspec.msgpack.Encoder()
_inbox = msgspec.msgpack.Decoder(Inbox)
_event: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def frame(message: Inbox | Event) -> bytes:
    """Encode a message, preceded by its length. Raises FrameTooLarge."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameTooLarge(f"a frame of {len(body)} bytes is over {MAX_FRAME_BYTES}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def split_frames(buffer: bytearray) -> list[bytes]:
    """Remove complete frames from the front of `buffer`; an incomplete one stays. Raises FrameTooLarge."""
    frames: list[bytes] = []
    start = 0
    while len(buffer) - start >= HEADER_BYTES:
        size = int.from_bytes(buffer[start : start + HEADER_BYTES], "big")
        if size > MAX_FRAME_BYTES:
            raise FrameTooLarge(f"a frame of {size} bytes is over {MAX_FRAME_BYTES}")
        end = start + HEADER_BYTES + size
        if len(buffer) < end:
            break
        frames.append(bytes(buffer[start + HEADER_BYTES : end]))
        start = end
    del buffer[:start]
    return frames


def decode_inbox(body: bytes) -> Inbox:
    """Raises msgspec.ValidationError on anything but an Inbox."""
    return _inbox.decode(body)


def decode_event(body: bytes) -> Event:
    """Raises msgspec.ValidationError on anything but an event of the engine."""
    return _event.decode(body)
