"""The process that decodes clients' images: `python -m tenantd.text.image_worker`, started by the daemon.

An image file may be made to exhaust memory or time, or to exploit a decoder. So it is decoded in a separate process
with limits, which opens no files, and which the daemon kills if it takes too long. It decodes with stb_image, which is
part of llama.cpp's mtmd, and makes images no larger than the projector has a use for.

Standard input and output carry frames of a 4-byte big-endian length and a msgpack body, alternating `Encoded` and
`Decoded`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tenantd.process_limits import die_first, hide_memory
from tenantd.text.worker_process import HEADER_BYTES

MEMORY_BYTES: Final = 1 << 30
"""In addition to what the process has at its start: libraries for GPUs take gigabytes of addresses."""
CPU_S: Final = 10
"""For one image."""
CHANNELS: Final = 3
MOST_AREAS: Final = 2
"""How large an image may stay, as a multiple of the square that the projector looks at: then one that is wide or high
keeps its details on its shorter side."""
SIGNATURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
NOT_KNOWN: Final = "it is neither a PNG nor a JPEG file"


class Encoded(msgspec.Struct, frozen=True):
    """A file. Its image may have `most_pixels`; more than `side` in each direction are of no use. `number` is returned
    with the result."""

    file: bytes
    side: int
    most_pixels: int
    number: int = 0


class Decoded(msgspec.Struct, frozen=True):
    """Pixels of three bytes each, row by row; or why there are none."""

    width: int = 0
    height: int = 0
    pixels: bytes = b""
    error: str = ""
    number: int = 0


class Stb:
    """stb_image, as mtmd's library exports it."""

    def __init__(self) -> None:
        """Raises OSError, AttributeError if the library does not have it."""
        found = importlib.util.find_spec("llama_cpp")
        if found is None or found.origin is None:
            raise OSError("llama_cpp is not installed")
        library: Any = ctypes.CDLL(str(Path(found.origin).parent / "lib" / "libmtmd.so"))
        integers = [ctypes.POINTER(ctypes.c_int)] * 3
        self._info = library.stbi_info_from_memory
        self._info.argtypes = [ctypes.c_char_p, ctypes.c_int, *integers]
        self._load = library.stbi_load_from_memory
        self._load.argtypes = [ctypes.c_char_p, ctypes.c_int, *integers, ctypes.c_int]
        self._load.restype = ctypes.c_void_p
        self._free = library.stbi_image_free
        self._free.argtypes = [ctypes.c_void_p]
        self._reason = library.stbi_failure_reason
        self._reason.restype = ctypes.c_char_p

    def decode(self, asked: Encoded) -> NDArray[np.uint8] | str:
        """An array of rows, columns and colours, or why there is none."""
        if not asked.file.startswith(SIGNATURES):
            return NOT_KNOWN
        sizes = [ctypes.c_int() for _ in range(3)]
        width, height, _ = sizes
        pointers = [ctypes.byref(size) for size in sizes]
        if not self._info(asked.file, len(asked.file), *pointers):
            return "its file is damaged, or it has far too many pixels"
        if width.value * height.value > asked.most_pixels:
            return (
                f"it has {width.value} × {height.value} pixels, and at most {asked.most_pixels} in all are allowed "
                "(images.max_pixels)"
            )
        if not (data := self._load(asked.file, len(asked.file), *pointers, CHANNELS)):
            return f"its file is damaged: {self._said()}"
        shape = height.value, width.value, CHANNELS
        try:
            return np.frombuffer(ctypes.string_at(data, width.value * height.value * CHANNELS), np.uint8).reshape(shape)
        finally:
            self._free(data)

    def _said(self) -> str:
        return (self._reason() or b"unknown reason").decode("ascii", "replace")


def fitted(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The image, made so small that its shorter side has no more than `side`, and that it has no more than MOST_AREAS
    squares of that; its proportions stay."""
    height, width, _ = pixels.shape
    scale = min(1.0, side / min(width, height), (MOST_AREAS * side * side / (width * height)) ** 0.5)
    if scale == 1.0:
        return pixels
    wanted = max(1, round(height * scale)), max(1, round(width * scale))
    rows, columns = max(1, height // wanted[0]), max(1, width // wanted[1])
    cut = pixels[: height // rows * rows, : width // columns * columns]
    blocks = cut.reshape(cut.shape[0] // rows, rows, cut.shape[1] // columns, columns, CHANNELS)
    means = blocks.mean((1, 3), dtype=np.float32)
    smooth = _stretched(_stretched(means, wanted[0], 0), wanted[1], 1)
    return np.asarray(np.clip(smooth + 0.5, 0, 255), np.uint8)


def _stretched(values: NDArray[np.float32], length: int, axis: int) -> NDArray[np.float32]:
    """Linearly interpolated to another length along one axis."""
    last = values.shape[axis] - 1
    at = np.clip((np.arange(length, dtype=np.float32) + 0.5) * (last + 1) / length - 0.5, 0, last)
    below = at.astype(np.int64)
    part = (at - below).reshape([-1 if number == axis else 1 for number in range(3)])
    above = np.minimum(below + 1, last)
    return np.asarray(values.take(below, axis) * (1 - part) + values.take(above, axis) * part, np.float32)


def answer(stb: Stb, asked: Encoded) -> Decoded:
    """Decode within limits."""
    try:
        found = stb.decode(asked)
        if isinstance(found, str):
            return Decoded(error=found, number=asked.number)
        small = fitted(found, asked.side)
    except MemoryError:
        return Decoded(error="it takes too much memory to decode", number=asked.number)
    return Decoded(small.shape[1], small.shape[0], small.tobytes(), number=asked.number)


def main() -> None:
    """Serve until standard input ends."""
    stb = Stb()
    fitted(np.zeros((9, 7, CHANNELS), np.uint8), 2)  # so that numpy has all its files
    die_first()
    _limit()
    hide_memory()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(stb, sys.stdin.buffer, sys.stdout.buffer)


def _limit() -> None:
    """From now on the process opens no files, writes none, and starts no other."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most_bytes = pages * resource.getpagesize() + MEMORY_BYTES
    limits = {
        resource.RLIMIT_AS: most_bytes,
        resource.RLIMIT_NOFILE: 3,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for which, most in limits.items():
        resource.setrlimit(which, (most, most))


def _serve(stb: Stb, requests: BinaryIO, answers: BinaryIO) -> None:
    decode = msgspec.msgpack.Decoder(Encoded).decode
    encode = msgspec.msgpack.Encoder().encode
    while len(header := requests.read(HEADER_BYTES)) == HEADER_BYTES:
        asked = decode(requests.read(int.from_bytes(header, "big")))
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_S, resource.RLIM_INFINITY))
        body = encode(answer(stb, asked))
        answers.write(len(body).to_bytes(HEADER_BYTES, "big") + body)
        answers.flush()
        del asked, body


if __name__ == "__main__":
    main()
    os._exit(0)
