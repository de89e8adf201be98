"""Reads the images of requests for the engine, off the event loop."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from tenantd.engine_settings import ImagesConfig
from tenantd.errors import InvalidRequest, QueueFull
from tenantd.text.image_worker import CHANNELS, MOST_AREAS, Decoded, Encoded
from tenantd.text.pixels import HeldImage, PixelStore
from tenantd.text.worker_process import WorkerProcess

log = logging.getLogger(__name__)

WORKER_COMMAND: Final = (sys.executable, "-m", "tenantd.text.image_worker")
MOST_SIDE: Final = 4096
"""Of the square that a projector looks at."""
HELLO: Final = Encoded(b"hello", 1, 1)


class Images:
    """Decodes images in a process of their own, and keeps their pixels in memory that the engine shares."""

    def __init__(self, settings: ImagesConfig) -> None:
        self.settings = settings
        self._number = 0
        self._owner: tuple[str, int | None] = "", None  # whose files the process decodes: a tenant's name and number
        self._file_bytes: Counter[str] = Counter()  # of files that are not decoded yet, by tenant; none is 0
        self._worker = WorkerProcess(
            WORKER_COMMAND,
            "the image decoder",
            "images waiting to be decoded",
            lambda: self._ask(HELLO),
            most_bytes=CHANNELS * MOST_AREAS * MOST_SIDE * MOST_SIDE,
        )

    @functools.cached_property
    def store(self) -> PixelStore:
        """The memory, made when it is first needed."""
        return PixelStore(self.settings.bytes_per_tenant)

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` for the engine's process."""
        return self.store.environment(base)

    async def read(self, tenant: str, files: Sequence[bytes], side: int, *, tenant_id: int | None) -> list[HeldImage]:
        """The images in these files. More than `side` pixels in each direction are of no use. `tenant_id` tells the
        tenant from others who had its name.

        Raises InvalidRequest, QueueFull, EngineUnavailable, Draining.
        """
        held = []
        with self._waiting(tenant, sum(map(len, files))):
            for number, file in enumerate(files):
                asked = Encoded(file, min(side, MOST_SIDE), self.settings.max_pixels)
                # If the client disconnects meanwhile, its image is decoded anyway.
                decode = functools.partial(self._decode, (tenant, tenant_id), asked)
                decoded = await self._worker.in_turn(tenant, decode)
                if decoded.error:
                    which = f"image {number + 1} of {len(files)}" if len(files) > 1 else "the image"
                    raise InvalidRequest(f"messages: {which} cannot be used: {decoded.error}", param="messages")
                digest = await asyncio.to_thread(_digest, decoded)
                held.append(self.store.keep(tenant, decoded.width, decoded.height, decoded.pixels, digest))
        return held

    @contextmanager
    def _waiting(self, tenant: str, size_bytes: int) -> Iterator[None]:
        """Count files while they wait: those of a response that is continued came with another request's body. Raises
        QueueFull."""
        before_bytes, most_bytes = self._file_bytes[tenant], self.settings.bytes_per_tenant
        if before_bytes and before_bytes + size_bytes > most_bytes:
            raise QueueFull(
                f"images of tenant {tenant} waiting to be decoded take {before_bytes} bytes of at most {most_bytes}; "
                "try again when one is decoded",
                retry_after_s=1,
            )
        self._file_bytes[tenant] += size_bytes
        try:
            yield
        finally:
            self._file_bytes -= Counter({tenant: size_bytes})  # drops what is 0

    async def close(self) -> None:
        """Stop the process. Images still being decoded fail. Safe to call twice."""
        await self._worker.close()

    async def _decode(self, owner: tuple[str, int | None], asked: Encoded) -> Decoded:
        timeout_s = self.settings.timeout_s
        if self._owner != owner:  # whatever a file made of the process, no other tenant's file gets there
            await self._worker.end()
            self._owner = owner
        try:
            await self._worker.be_there()
            async with asyncio.timeout(timeout_s):
                return await self._ask(asked)
        except TimeoutError:
            await self._worker.replace()
            return Decoded(error=f"it took longer than {timeout_s:g} s to decode (images.timeout_s)")
        except (EOFError, OSError, msgspec.DecodeError):
            log.info("the image decoder exited with status %s and is restarted", await self._worker.replace())
            return Decoded(error="it cannot be decoded")

    async def _ask(self, asked: Encoded) -> Decoded:
        """Raises EOFError, OSError or msgspec.DecodeError if the process died, or returned something else."""
        self._number += 1
        question = msgspec.structs.replace(asked, number=self._number)
        answer = msgspec.msgpack.decode(await self._worker.ask(msgspec.msgpack.encode(question)), type=Decoded)
        is_whole = answer.error or len(answer.pixels) == CHANNELS * answer.width * answer.height > 0
        if answer.number != self._number or not is_whole:  # another's, which nobody may get
            raise EOFError
        return answer


def _digest(image: Decoded) -> bytes:
    return hashlib.sha256(b"%d %d " % (image.width, image.height) + image.pixels).digest()
