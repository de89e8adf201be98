"""Memory with the pixels of requests' images, which the engine process reads: not sent, because a single one has
megabytes, and nobody's next request should wait behind that.

It is an anonymous file of the kernel, of which only what is in use takes memory. It is in no file system, and nothing
of it outlives the daemon and its engine.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from tenantd.errors import QueueFull
from tenantd.wire.messages import IMAGES_FD_VARIABLE

SPACE_BYTES: Final = 1 << 36
"""Of addresses; memory is bounded by tenant."""


class HeldImage:
    """An image of a request. Its pixels stay where they are until nothing refers to it any more, and are then
    overwritten with zeros."""

    __slots__ = ("_release", "digest", "height", "offset", "width")

    def __init__(self, width: int, height: int, offset: int, digest: bytes, release: Callable[[int], None]) -> None:
        """`digest` is that of its pixels and size."""
        self.width = width
        self.height = height
        self.offset = offset
        self.digest = digest
        self._release = release

    def __del__(self) -> None:
        self._release(self.offset)


class PixelStore:
    """The memory. Images may be forgotten in any thread."""

    def __init__(self, bytes_per_tenant: int) -> None:
        self._bytes_per_tenant = bytes_per_tenant
        self._fd = os.memfd_create("tenantd-images", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, SPACE_BYTES)
        self._map = mmap.mmap(self._fd, SPACE_BYTES, mmap.MAP_SHARED)
        self._held: dict[int, tuple[int, str]] = {}  # by offset: bytes, tenant
        self._used: Counter[str] = Counter()
        self._lock = threading.RLock()  # an image may be forgotten while another is taken, in the same thread

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` for a process that gets this memory."""
        return {**base, IMAGES_FD_VARIABLE: str(self._fd)}

    def keep(self, tenant: str, width: int, height: int, pixels: bytes, digest: bytes) -> HeldImage:
        """Put an image there. Raises QueueFull if its tenant's requests hold too much."""
        size_bytes = -(-len(pixels) // mmap.PAGESIZE) * mmap.PAGESIZE
        with self._lock:
            if self._used[tenant] and self._used[tenant] + size_bytes > self._bytes_per_tenant:
                raise QueueFull(
                    f"images of tenant {tenant}'s requests take {self._used[tenant]} bytes of at most "
                    f"{self._bytes_per_tenant}; try again when a request has finished",
                    retry_after_s=1,
                )
            offset = self._gap(size_bytes)
            self._held[offset] = size_bytes, tenant
            self._used[tenant] += size_bytes
        self._map[offset : offset + len(pixels)] = pixels
        return HeldImage(width, height, offset, digest, self._release)

    @property
    def used_bytes(self) -> int:
        """What all images take."""
        return self._used.total()

    def _gap(self, size_bytes: int) -> int:
        """The first place with so much room."""
        end = 0
        held = self._held.copy()  # while it is sorted, garbage may be collected, and images in it are forgotten
        for offset, (taken_bytes, _) in sorted(held.items()):
            if offset - end >= size_bytes:
                break
            end = offset + taken_bytes
        if end + size_bytes > SPACE_BYTES:
            raise QueueFull("the images of all requests take too much memory; try again", retry_after_s=1)
        return end

    def _release(self, offset: int) -> None:
        with self._lock:
            size_bytes, tenant = self._held[offset]
            self._map.madvise(mmap.MADV_REMOVE, offset, size_bytes)  # it reads as zeros from now on
            del self._held[offset]
            self._used[tenant] -= size_bytes
            if not self._used[tenant]:
                del self._used[tenant]

    def check_empty(self) -> None:
        """Invariant: nothing is live, so no image is held."""
        assert not self._held, f"left over: {self._held}"
