"""The engine's view of the memory in which the daemon puts the pixels of images."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping

from tenantd.engine.compute import EngineBroken
from tenantd.wire.messages import IMAGES_FD_VARIABLE, PlacedImage


class ImageMemory:
    """It can only be read. Whose an image is, the daemon knows; the engine reads where a request says."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        text = environment.get(IMAGES_FD_VARIABLE)
        self._map = None if text is None else mmap.mmap(int(text), 0, mmap.MAP_SHARED, mmap.PROT_READ)

    def pixels(self, image: PlacedImage) -> bytes:
        """A copy of an image's pixels. Raises EngineBroken."""
        size_bytes = 3 * image.width * image.height
        if self._map is None or not 0 < size_bytes <= len(self._map) - image.offset:
            raise EngineBroken("an image is not in the memory that the daemon shares")
        return self._map[image.offset : image.offset + size_bytes]
