"""Finds the images in a chat's messages, and keeps their places while the messages become tokens.

An image is a part of a content, beside its texts. It becomes a mark that nobody can guess, in the text of its message;
so the chat template puts it where it puts the text. Then its tokens take the place of the mark.
"""

from __future__ import annotations

import hashlib
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from tenantd.engine_settings import ImagesConfig
from tenantd.errors import InvalidRequest
from tenantd.text.hiding import Sentinels
from tenantd.text.pixels import HeldImage
from tenantd.wire.messages import IMAGE_TOKENS_FROM, ImageInfo, PlacedImage

IMAGE_PART: Final = "image_url"
PORTION_CHARACTERS: Final = 1 << 20
"""Of base64, decoded at once: the interpreter does nothing else meanwhile."""
DETAILS: Final = (None, "auto", "low", "high", "original")
"""They change nothing: the projector decides how much it sees."""


class Placed(NamedTuple):
    """An image in a prompt, after `start` tokens. It takes `tokens`."""

    start: int
    tokens: int
    image: HeldImage

    def sent(self) -> PlacedImage:
        """For the engine."""
        return PlacedImage(self.start, self.tokens, self.image.offset, self.image.width, self.image.height)


class Found(NamedTuple):
    """The images of a chat, as files, and its messages with marks in their places."""

    files: list[bytes]
    messages: list[dict[str, Any]]
    marks: Sentinels


class ImagePlaces:
    """Where images go once they are there."""

    def __init__(self, marks: Sentinels, images: Sequence[HeldImage], info: ImageInfo) -> None:
        self._marks = marks
        self._images = images
        self._info = info

    def split(self, text: str) -> Iterator[tuple[str, HeldImage | None]]:
        """Pairs of a text and the image after it; the last pair has none."""
        for before, number in self._marks.split(text):
            yield before, self._images[int(number)] if number else None

    def tokens(self, image: HeldImage) -> tuple[Sequence[int], list[int], Sequence[int]]:
        """The tokens that the model expects before an image, the image's, and those after it.

        The image's are made of what it is, so that another image has others.
        """
        count = self._info.tokens
        drawn = np.frombuffer(hashlib.shake_256(image.digest).digest(4 * count), "<u4")
        return self._info.before, (drawn % IMAGE_TOKENS_FROM + IMAGE_TOKENS_FROM).tolist(), self._info.after


def find_images(messages: Sequence[Any], settings: ImagesConfig, info: ImageInfo | None) -> Found | None:
    """The images in messages as OpenAI's clients send them; None if there are none. Raises InvalidRequest."""
    if not any(_is_image(part) for message in messages for part in _parts(message)):
        return None
    if info is None:
        raise InvalidRequest(
            "messages: this server cannot read images, because its model has no projector; an administrator can "
            "set one in its configuration: model.projector",
            param="messages",
        )
    files: list[bytes] = []
    marks = Sentinels()

    def marked(part: Any, where: str, role: Any) -> Any:
        if not _is_image(part):
            return part
        if role != "user":
            raise _refused(f"{where}: only a user's message may have images")
        if len(files) == settings.max_per_request:
            raise _refused(f"at most {settings.max_per_request} images are allowed in one request")
        files.append(_file(part, where, settings.max_bytes))
        return {"type": "text", "text": marks.hide_apart(str(len(files) - 1))}

    found = [
        {
            **message,
            "content": [
                marked(part, f"messages[{number}].content[{place}]", message.get("role"))
                for place, part in enumerate(parts)
            ],
        }
        if any(map(_is_image, parts := _parts(message)))
        else message
        for number, message in enumerate(messages)
    ]
    return Found(files, found, marks)


def _parts(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else []


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == IMAGE_PART


def _file(part: dict[str, Any], where: str, most_bytes: int) -> bytes:
    """The image's file. Raises InvalidRequest."""
    given = part.get(IMAGE_PART)
    address, detail = (given.get("url"), given.get("detail")) if isinstance(given, dict) else (given, None)
    if not isinstance(address, str):
        raise _refused(f"{where}.image_url must be an object with a url")
    if detail not in DETAILS:
        raise _refused(f"{where}.image_url.detail must be auto, low or high")
    if address[:8].lower().startswith(("http://", "https://")):
        raise _refused(f"{where}: this server fetches nothing; send the image itself, as data:image/png;base64,…")
    head, comma, data = address.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise _refused(f"{where}.image_url.url must be like data:image/png;base64,…")
    if len(data) // 4 * 3 > most_bytes + 2:
        raise _refused(f"{where}: an image may have at most {most_bytes} bytes (images.max_bytes); send a smaller one")
    file = _decoded(data)
    if not file:
        raise _refused(f"{where}.image_url.url is not valid base64")
    return file


def _decoded(data: str) -> bytes:
    """What base64 stands for; "" if it is not valid."""
    starts = range(0, len(data), PORTION_CHARACTERS)
    try:
        return b"".join(a2b_base64(data[start : start + PORTION_CHARACTERS], strict_mode=True) for start in starts)
    except (NotBase64, ValueError):
        return b""


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"messages: {reason}", param="messages")
