"""Images with llama.cpp's mtmd and tiny projectors: what is computed of them, and which projectors are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from tenantd.engine.compute import Chunk, EngineBroken
from tenantd.engine.llama import LlamaCompute
from tenantd.errors import ModelError
from tenantd.wire.messages import IMAGE_TOKENS_FROM, IMAGES_FD_VARIABLE, PlacedImage
from tests.engine.llama.kit import GREEDY, LAYOUTS, Engines
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora
from tests.support.tiny_projector import TOKENS, Kind, write_tiny_projector

BEFORE = [1, 270, 271, 272]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    fd = os.memfd_create("images")
    os.ftruncate(fd, 1 << 20)
    monkeypatch.setenv(IMAGES_FD_VARIABLE, str(fd))
    yield fd
    os.close(fd)


@pytest.fixture(params=[(kind, kv) for kind in get_args(Kind) for kv in LAYOUTS], ids="-".join)
def engine(request: pytest.FixtureRequest, memory: int, tmp_path: Path) -> Iterator[LlamaCompute]:
    kind, kv = request.param
    engines = Engines(write_tiny_gguf(tmp_path / "tiny.gguf", is_packed=False))
    yield engines(projector_path=str(write_tiny_projector(tmp_path / "mmproj.gguf", kind=kind)), kv=kv, scrub=True)
    engines.close()


def put(memory: int, seed: int, width: int = 40, height: int = 30) -> PlacedImage:
    """An image of random pixels; each seed has its own place."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    os.pwrite(memory, pixels.tobytes(), 65_536 * seed)
    return PlacedImage(len(BEFORE), 0, 65_536 * seed, width, height)


def look(engine: LlamaCompute, sequence: int, image: PlacedImage, tokens: int = 6, *, rest: bool = True) -> list[int]:
    """What is generated after a text, an image and, with `rest`, another text."""
    assert engine.info.images is not None
    count = engine.info.images.tokens
    image = PlacedImage(image.start, count, image.offset, image.width, image.height)
    engine.bind(sequence, GREEDY, [], [], request=sequence)
    engine.run([Chunk(sequence, 0, BEFORE, False, sequence)])
    own = [IMAGE_TOKENS_FROM] * count
    result = engine.run([Chunk(sequence, len(BEFORE), own, not rest, sequence, (), image)])
    assert result.image_micros <= result.micros
    position, found, next_tokens = len(BEFORE) + count, [], [280, 281]
    if not rest:
        found, next_tokens = [result.sampled[sequence].token], [result.sampled[sequence].token]
    while len(found) < tokens:
        sampled = engine.run([Chunk(sequence, position, next_tokens, True, sequence)]).sampled[sequence]
        assert not sampled.failed
        position += len(next_tokens)
        next_tokens = [sampled.token]
        found.append(sampled.token)
    return found


@pytest.mark.parametrize("rest", [True, False])
def test_another_image_is_another_answer_whatever_its_size(engine: LlamaCompute, memory: int, rest: bool) -> None:
    images = [put(memory, 1), put(memory, 2), put(memory, 3, 200, 9), put(memory, 4, 1, 1)]
    answers = [look(engine, 0, images[0], rest=rest)]
    for sequence, image in enumerate(images[1:], 1):
        answers.append(look(engine, sequence, image, rest=rest))
    assert len({tuple(answer) for answer in answers}) == len(images)
    for sequence in range(len(images)):
        engine.clear(sequence)
    assert look(engine, 2, images[0], rest=rest) == answers[0], "wherever it is, and whatever was there before"
    engine.clear(2)
    assert engine.is_empty()


def test_a_swapped_out_request_with_an_image_goes_on_as_if_nothing_had_happened(
    engine: LlamaCompute, memory: int
) -> None:
    whole = look(engine, 0, put(memory, 1), 8)
    engine.clear(0)
    begun = look(engine, 0, put(memory, 1), 4)
    state = engine.swap_out(0, 1 << 30)
    look(engine, 0, put(memory, 2))
    assert engine.swap_in(3, state, 0)
    assert engine.info.images is not None
    position = len(BEFORE) + engine.info.images.tokens + 5
    for token in whole[4:]:
        sampled = engine.run([Chunk(3, position, [begun[-1]], True, 0)]).sampled[3]
        begun.append(sampled.token)
        position += 1
        assert sampled.token == token


def test_pixels_that_are_not_there_break_the_engine_and_are_not_read(engine: LlamaCompute, memory: int) -> None:
    with pytest.raises(EngineBroken, match="not in the memory"):
        look(engine, 0, PlacedImage(len(BEFORE), 0, (1 << 20) - 100, 40, 30))


def test_a_projector_is_part_of_the_memory_plan_and_tells_what_it_makes(engine: LlamaCompute) -> None:
    images = engine.info.images
    assert images is not None
    kind = "gemma3" if "gemma3" in images.projector else "mlp"
    assert (images.tokens, images.side) == (TOKENS[kind], 32)
    assert bool(images.before) == bool(images.after) == (kind == "gemma3"), "gemma has marks around its images"


def test_projectors_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path, memory: int) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    engines = Engines(model)

    def refusal(path: Path, **changes: Any) -> str:
        with pytest.raises(ModelError) as caught:
            engines(projector_path=str(path), **changes)
        return caught.value.message

    assert "no such file" in (missing := refusal(tmp_path / "none.gguf")) and "(model.projector)" in missing
    assert "not a projector, but of the type 'model'" in refusal(model)
    assert "not a projector, but of the type 'adapter'" in refusal(write_tiny_lora(tmp_path / "lora.gguf"))
    (tmp_path / "text.gguf").write_text("hello")
    assert "not a GGUF file" in refusal(tmp_path / "text.gguf")
    other = write_tiny_projector(tmp_path / "other.gguf", width=96)
    assert "does not fit the model, whose embeddings have 64 dimensions" in refusal(other)
    whole = write_tiny_projector(tmp_path / "mmproj.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    assert "cut.gguf" in refusal(tmp_path / "cut.gguf")
    wide = write_tiny_projector(tmp_path / "wide.gguf", side=512)
    assert "raise engine.batch_tokens (64) to at least 1024" in refusal(wide, batch_tokens=64)
    engines.close()
