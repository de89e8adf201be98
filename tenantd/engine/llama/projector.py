"""Turns images into embeddings of the model with llama.cpp's mtmd, one at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray

from tenantd.engine.compute import EngineBroken
from tenantd.engine.image_memory import ImageMemory
from tenantd.errors import ModelError
from tenantd.llamacpp import devices, log
from tenantd.llamacpp.handles import FLASH_ATTENTION, kind_of
from tenantd.llamacpp.projectors import SETTING, read_projector
from tenantd.wire.messages import ImageInfo, Load, PlacedImage

TRIED_SIZES: Final = ((64, 64), (2000, 500), (500, 2000), (3000, 3000))
"""Width and height of images whose tokens are counted when a projector is loaded: they must have the same number."""

Part = tuple[int, list[int]]
"""Of what stands for an image: how many embeddings, or which tokens."""


class LoadedProjector:
    """A projector, and the model whose embeddings it makes. Free it before the model."""

    def __init__(self, load: Load, model: Any, progress: Callable[[float], None]) -> None:
        """Raises ModelError."""
        found = read_projector(Path(load.projector_path))
        self._width = int(llama_cpp.llama_model_n_embd_inp(model))
        self._memory = ImageMemory()
        self._handle = self._open(load, model, progress)
        try:
            if mtmd_cpp.mtmd_decode_use_mrope(self._handle):
                raise ModelError(
                    f"{load.projector_path}: the model gives the tokens of images positions in two dimensions "
                    f"(M-RoPE), which is not supported; unset {SETTING}"
                )
            self.is_causal = not mtmd_cpp.mtmd_decode_use_non_causal(self._handle, None)
            before, tokens, after = self._layout(found.kind)
        except ModelError:
            self.close()
            raise
        if not self.is_causal and tokens > load.batch_tokens:
            self.close()
            raise ModelError(
                f"an image has {tokens} tokens with this projector, and all of them must be in one pass: raise "
                f"engine.batch_tokens ({load.batch_tokens}) to at least {tokens}"
            )
        self.info = ImageInfo(
            projector=f"{found.path.name} ({found.kind})",
            tokens=tokens,
            before=before,
            after=after,
            side=found.side,
            model_bytes=found.file_bytes,
        )

    def _open(self, load: Load, model: Any, progress: Callable[[float], None]) -> Any:
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu = load.gpu_layers != 0
        params.n_threads = load.threads or devices.default_threads()
        params.flash_attn_type = FLASH_ATTENTION[load.flash_attention]
        params.print_timings = False

        def report(fraction: float, _: Any) -> bool:
            progress(fraction)
            return True

        callback = mtmd_cpp.mtmd_progress_callback(report)
        params.progress_callback = callback
        log.capture_projectors()
        log.forget()
        handle = mtmd_cpp.mtmd_init_from_file(load.projector_path.encode(), model, params)
        if handle:
            return handle
        if any("mismatch between text model" in line for line in log.lines()):
            raise ModelError(
                f"{load.projector_path}: does not fit the model, whose embeddings have {self._width} dimensions; set "
                f"{SETTING} to the projector that was made for it"
            )
        reason = log.reason("no reason given")
        raise kind_of(reason)(f"{load.projector_path}: llama.cpp cannot load it: {reason}")

    def _layout(self, kind: str) -> tuple[list[int], int, list[int]]:
        """What stands for an image: tokens before it, how many embeddings, tokens after it. Raises ModelError."""
        layouts = [self._parts(width, height) for width, height in TRIED_SIZES]
        embedded = [place for place, (count, _) in enumerate(layouts[0]) if count]
        if any(layout != layouts[0] for layout in layouts) or len(embedded) != 1:
            raise ModelError(
                f'a projector of the kind "{kind}" makes more tokens of larger images, or cuts them into pieces, which '
                f"is not supported; unset {SETTING}"
            )
        [place] = embedded
        before = [token for _, tokens in layouts[0][:place] for token in tokens]
        after = [token for _, tokens in layouts[0][place + 1 :] for token in tokens]
        return before, layouts[0][place][0], after

    def _parts(self, width: int, height: int) -> list[Part]:
        with self._chunks(width, height, None) as chunks:
            return [self._part(chunk) for chunk in chunks]

    def _part(self, chunk: Any) -> Part:
        count = ctypes.c_size_t()
        if mtmd_cpp.mtmd_input_chunk_get_type(chunk) != mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
            return int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)), []
        tokens = mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        return 0, [int(tokens[place]) for place in range(count.value)]

    def embeddings(self, image: PlacedImage) -> NDArray[np.float32]:
        """Those of an image, one for each of its tokens. Valid until the next call. Raises EngineBroken."""
        with self._chunks(image.width, image.height, self._memory.pixels(image)) as chunks:
            for chunk in chunks:
                count, _ = self._part(chunk)
                if not count:
                    continue
                if count != image.tokens:
                    raise EngineBroken(f"an image has {count} tokens instead of {image.tokens}")
                if mtmd_cpp.mtmd_encode_chunk(self._handle, chunk):
                    raise EngineBroken(f"the projector failed: {log.reason('no reason given')}")
                pointer = mtmd_cpp.mtmd_get_output_embd(self._handle)
                return np.ctypeslib.as_array(pointer, (count, self._width))
        raise EngineBroken("the projector makes nothing of an image")

    @contextmanager
    def _chunks(self, width: int, height: int, pixels: bytes | None) -> Iterator[list[Any]]:
        """What mtmd makes of an image, without pixels only how much. Raises EngineBroken."""
        data = None if pixels is None else (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
        marker = mtmd_cpp.mtmd_get_marker(self._handle)
        text = mtmd_cpp.mtmd_input_text(marker, len(marker), False, True)
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, data)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            bitmaps = (ctypes.c_void_p * 1)(bitmap)
            if code := mtmd_cpp.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), bitmaps, 1):
                raise EngineBroken(f"mtmd_tokenize failed with {code} on an image of {width} × {height} pixels")
            count = mtmd_cpp.mtmd_input_chunks_size(chunks)
            yield [mtmd_cpp.mtmd_input_chunks_get(chunks, place) for place in range(count)]
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            mtmd_cpp.mtmd_bitmap_free(bitmap)

    def close(self) -> None:
        """Free everything."""
        mtmd_cpp.mtmd_free(self._handle)
