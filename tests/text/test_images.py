"""Images of requests: found in messages, decoded in another process, and kept in memory that is given back."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenantd.config import ImagesConfig
from tenantd.errors import InvalidRequest, QueueFull
from tenantd.text.chat import ChatFormatter
from tenantd.text.image_parts import ImagePlaces, find_images
from tenantd.text.image_worker import fitted
from tenantd.text.images import Images
from tenantd.text.pixels import HeldImage, PixelStore
from tenantd.text.vocabulary import ByteVocabulary
from tenantd.wire.messages import IMAGE_TOKENS_FROM, IMAGES_FD_VARIABLE, ImageInfo
from tests.support.pictures import address, bomb, message, part, png

INFO = ImageInfo(projector="", tokens=5, before=[60], after=[62], side=64, model_bytes=0)
SETTINGS = ImagesConfig(max_per_request=2, max_bytes=5000, max_pixels=1_000_000)


# ---- in messages -----------------------------------------------------------------------------------------------


def mistake(*messages: Any, info: ImageInfo | None = INFO) -> str:
    with pytest.raises(InvalidRequest) as caught:
        find_images(messages, SETTINGS, info)
    return caught.value.message


def test_messages_without_images_are_left_alone() -> None:
    assert find_images([{"role": "user", "content": "a"}, message("b"), 7, {"content": [1]}], SETTINGS, None) is None


def test_what_cannot_be_an_image_is_refused_with_the_reason() -> None:
    def url(address: Any) -> Any:
        return message({"type": "image_url", "image_url": {"url": address}})

    assert "model.projector" in mistake(message(png()), info=None)
    assert "fetches nothing" in mistake(url("https://example.org/cat.png"))
    assert "must be like data:image/png;base64" in mistake(url("data:text/plain;base64,aGFsbG8="))
    assert "must be like data:image/png;base64" in mistake(url("cat.png"))
    assert "not valid base64" in mistake(url("data:image/png;base64,a*b="))
    assert "not valid base64" in mistake(url("data:image/png;base64,"))
    assert "must be an object with a url" in mistake(url(None))
    assert "at most 5000 bytes" in mistake(message(bytes(5003)))
    assert "at most 2 images" in mistake(message(png(1, 2, 2)), message(png(1, 2, 2), "and", png(2, 2, 2)))
    assert "only a user's message" in mistake({**message(png(1, 2, 2)), "role": "system"})
    assert "detail" in mistake(message(part(png(1, 2, 2), detail="huge")))


def test_an_image_takes_the_place_that_it_has_among_the_texts() -> None:
    found = find_images([message("ab", png(1, 2, 2), "cd")], SETTINGS, INFO)
    assert found is not None and found.files == [png(1, 2, 2)]
    image = HeldImage(2, 2, 4096, b"digest", lambda offset: None)
    places = ImagePlaces(found.marks, [image], INFO)
    prompt = ChatFormatter(ByteVocabulary()).conversation(found.messages, images=places)
    [placed] = prompt.images
    own = prompt.tokens[placed.start : placed.start + 5]
    assert all(IMAGE_TOKENS_FROM <= token < 2 * IMAGE_TOKENS_FROM for token in own) and placed.image is image
    before, after = prompt.tokens[: placed.start], prompt.tokens[placed.start + 5 :]
    assert bytes(before[1:]).endswith(b"User: ab\n<") and bytes(after).startswith(b">\ncd\n")

    again = ImagePlaces(found.marks, [HeldImage(2, 2, 0, b"digest", lambda offset: None)], INFO)
    assert list(again.tokens(image)[1]) == own, "made of what it is, wherever it is"
    other = HeldImage(2, 2, 4096, b"another", lambda offset: None)
    assert set(places.tokens(other)[1]).isdisjoint(own)


# ---- decoded ----------------------------------------------------------------------------------------------------


def run(work: Callable[[Images], Awaitable[Any]], settings: ImagesConfig = SETTINGS) -> Any:
    async def whole() -> Any:
        images = Images(settings)
        try:
            return await work(images)
        finally:
            await images.close()

    return asyncio.run(whole())


def test_broken_files_are_refused_and_others_are_decoded_before_and_after() -> None:
    broken = {
        "neither a PNG nor a JPEG": b"GIF89a" + bytes(100),
        "its file is damaged, or": png()[:20],
        "its file is damaged: ": png()[:90],
        "far too many pixels": bomb(),
        "8000 × 4000 pixels": bomb(8000, 4000),
    }

    async def work(images: Images) -> None:
        for words, file in broken.items():
            with pytest.raises(InvalidRequest, match=words):
                await images.read("acme", [file], 64, tenant_id=1)
            [image] = await images.read("acme", [png(3, 20, 10)], 64, tenant_id=1)
            assert (image.width, image.height) == (20, 10)
            pixels = os.pread(int(images.environment({})[IMAGES_FD_VARIABLE]), 600, image.offset)
            expected = np.random.default_rng(3).integers(0, 256, (10, 20, 3), dtype=np.uint8)
            assert pixels == expected.tobytes()

    run(work)


def test_a_process_that_is_killed_or_takes_too_long_is_replaced() -> None:
    async def work(images: Images) -> None:
        await images.read("acme", [png()], 64, tenant_id=1)
        process = images._worker.process
        assert process is not None
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n", "it goes before the engine"
        process.kill()
        await process.wait()
        assert await images.read("acme", [png()], 64, tenant_id=1), "nobody had asked it anything"
        ask = images._worker.ask

        async def killed(body: bytes) -> bytes:
            images._worker.ask = ask  # type: ignore[method-assign]
            assert images._worker.process is not None
            images._worker.process.kill()
            await images._worker.process.wait()
            return await ask(body)

        images._worker.ask = killed  # type: ignore[method-assign]
        with pytest.raises(InvalidRequest, match="cannot be decoded"):
            await images.read("acme", [png()], 64, tenant_id=1)
        assert await images.read("acme", [png()], 64, tenant_id=1)

    run(work)

    async def others(images: Images) -> None:
        pids = []
        for tenant in ("acme", "acme", "beta", "acme"):
            await images.read(tenant, [png()], 64, tenant_id=1)
            assert images._worker.process is not None
            pids.append(images._worker.process.pid)
        assert pids[0] == pids[1] and len(set(pids)) == 3, "no process has files of two tenants"

    run(others)

    async def of_one_name(images: Images) -> None:
        pids = set()
        for number in (1, 2):
            await images.read("acme", [png()], 64, tenant_id=number)
            assert images._worker.process is not None
            pids.add(images._worker.process.pid)
        assert len(pids) == 2, "nor those of a tenant that has the name of a removed one"

    run(of_one_name)

    async def slow(images: Images) -> None:
        with pytest.raises(InvalidRequest, match="took longer than"):
            await images.read("acme", [png(1, 900, 900)], 64, tenant_id=1)

    run(slow, ImagesConfig(timeout_s=1e-6))


def test_files_that_wait_to_be_decoded_are_counted_by_tenant() -> None:
    file = png(1, 60, 50)  # its pixels, made small, take one page

    async def work(images: Images) -> None:
        reads = [asyncio.create_task(images.read("acme", [file], 8, tenant_id=1)) for _ in range(5)]
        await asyncio.sleep(0)  # all of them have begun
        reads.append(asyncio.create_task(images.read("beta", [file, file, file], 8, tenant_id=1)))
        done = await asyncio.gather(*reads, return_exceptions=True)
        refused = [each for each in done if isinstance(each, BaseException)]
        assert len(refused) == 3 and all(isinstance(each, QueueFull) for each in refused), done
        assert not isinstance(done[5], BaseException), "others have their own, and one request is never too much"
        assert not images._file_bytes
        assert await images.read("acme", [file, file], 8, tenant_id=1), "there is room again"

    run(work, ImagesConfig(bytes_per_tenant=2 * len(file) + 1))


@pytest.mark.parametrize("size", [(3000, 1000), (1000, 3000), (100, 100), (1, 5000), (65, 64), (700, 300)])
def test_an_image_becomes_as_small_as_is_of_use_and_keeps_its_proportions(size: tuple[int, int]) -> None:
    rows = np.linspace(0, 255, size[1], dtype=np.uint8)[:, None, None]
    pixels = np.ascontiguousarray(np.broadcast_to(rows, (size[1], size[0], 3)))
    small = fitted(pixels, 64)
    height, width, _ = small.shape
    assert width * height <= 2 * 64 * 64 * 1.1 and min(width, height) <= 64
    assert abs(width / height / (size[0] / size[1]) - 1) < 0.05 or 1 in (width, height)
    assert (np.diff(small[:, 0, 0].astype(int)) >= 0).all(), "what was a slope still is one"
    assert small[-1, 0, 0] >= small[0, 0, 0]


# ---- kept -------------------------------------------------------------------------------------------------------


def test_memory_is_given_back_as_zeros_when_nobody_needs_an_image_any_more() -> None:
    store = PixelStore(1 << 20)
    fd = int(store.environment({"A": "b"})[IMAGES_FD_VARIABLE])
    first = store.keep("acme", 10, 10, b"\x01" * 300, b"")
    second = store.keep("acme", 10, 10, b"\x02" * 300, b"")
    assert second.offset - first.offset == mmap.PAGESIZE == store.used_bytes // 2
    assert os.pread(fd, 300, first.offset) == b"\x01" * 300
    place = first.offset
    del first
    assert os.pread(fd, 300, place) == bytes(300) and os.pread(fd, 300, second.offset) == b"\x02" * 300
    assert store.keep("acme", 10, 10, b"\x03" * 300, b"").offset == place, "it is used again"
    del second
    store.check_empty()


def test_a_tenant_holds_no_more_than_its_part_whatever_others_hold() -> None:
    store = PixelStore(3 * mmap.PAGESIZE)
    held = [store.keep("acme", 1, 1, b"abc", b"") for _ in range(3)]
    with pytest.raises(QueueFull, match="acme"):
        store.keep("acme", 1, 1, b"abc", b"")
    assert store.keep("beta", 1, 1, bytes(10 * mmap.PAGESIZE), b""), "one alone is always taken"
    held.pop()
    assert store.keep("acme", 1, 1, b"abc", b"")


def test_images_are_forgotten_with_garbage_while_a_place_is_looked_for() -> None:
    store = PixelStore(1 << 30)
    held = [store.keep("acme", 1, 1, b"abc", b"") for _ in range(200)]
    before = gc.get_threshold()
    gc.collect()
    garbage: list[Any] = [held.pop()]
    garbage.append(garbage)
    del garbage
    try:
        gc.set_threshold(100)  # reached while the 200 are gone through
        held.append(store.keep("acme", 1, 1, b"abc", b""))
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert store.used_bytes == 200 * mmap.PAGESIZE == len(held) * mmap.PAGESIZE


def test_addresses_are_read_in_any_case() -> None:
    shouted = address(png(1, 2, 2)).replace("data:image/png;base64", "DATA:IMAGE/PNG;BASE64")
    found = find_images([message({"type": "image_url", "image_url": shouted})], SETTINGS, INFO)
    assert found is not None and found.files == [png(1, 2, 2)]
