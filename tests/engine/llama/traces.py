"""What a sequence leaves in memory: in the KV cache, and outside it."""

from __future__ import annotations

import ctypes
import itertools
import mmap

import llama_cpp

from tenantd.engine.compute import Chunk
from tenantd.engine.llama import LlamaCompute
from tests.engine.llama.kit import CAREFUL, prompt

PIECE_BYTES = 96
PIECES = 6
_memmem = ctypes.CDLL(None).memmem
_memmem.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
_memmem.restype = ctypes.c_void_p


def writable() -> list[tuple[int, int]]:
    """First and last address of this process's own memory."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            addresses, permissions, *_, name = [*line.split(maxsplit=5), ""][:6]
            if permissions.startswith("rw") and not name.startswith(("[v", "/dev")):
                start, _, end = addresses.partition("-")
                found.append((int(start, 16), int(end, 16)))
    return found


def places(piece: bytes) -> set[int]:
    """Where these bytes are in memory."""
    found: set[int] = set()
    for start, end in writable():
        while (at := _memmem(start, end - start, piece, len(piece))) is not None:
            found.add(at)
            start = at + 1
    return found


class Traces:
    """Where the cells of a sequence are, and whether they still hold what they held."""

    def __init__(self, engine: LlamaCompute, sequence: int) -> None:
        size = llama_cpp.llama_state_seq_get_size(engine._context, sequence)
        state = (ctypes.c_uint8 * size)()
        assert llama_cpp.llama_state_seq_get_data(engine._context, state, size, sequence) == size
        step = (size * 3 // 4) // PIECES  # what comes first are positions
        pieces = [ctypes.string_at(ctypes.addressof(state) + size // 4 + n * step, PIECE_BYTES) for n in range(PIECES)]
        ctypes.memset(state, 0, size)
        everywhere = [(piece, places(piece) - own(piece)) for piece in pieces]
        self.cache = cache_of(engine, [found for _, found in everywhere])
        self.found = [(piece, {at for at in found if at in self.cache}) for piece, found in everywhere]
        assert sum(bool(at) for _, at in self.found) >= PIECES - 2, "rows of cells that follow each other are found"

    def anywhere(self) -> int:
        """How many places in the cache hold any of it now."""
        return sum(at in self.cache for piece, _ in self.found for at in places(piece) - own(piece))

    def left(self) -> int:
        """How many of the places still hold what they held."""
        return sum(ctypes.string_at(at, len(piece)) == piece for piece, found in self.found for at in found)


def cache_of(engine: LlamaCompute, found: list[set[int]]) -> range:
    """The addresses of the KV cache, where most of the pieces are; the last pass may have left others elsewhere."""
    caches = [range(at, at + engine.info.kv_bytes) for places in found for at in places]
    return max(caches, key=lambda cache: sum(any(at in cache for at in places) for places in found))


def own(piece: bytes) -> set[int]:
    """Where the object itself has the bytes."""
    return {id(piece) + bytes.__basicsize__ - 1}


def fill(engine: LlamaCompute, sequence: int, seed: int, tokens: int = 40) -> list[int]:
    """Bind it and compute a prompt."""
    text = prompt(tokens, seed)
    engine.bind(sequence, CAREFUL, text, [], request=sequence)
    for start in range(0, tokens, 20):
        engine.run([Chunk(sequence, start, text[start : start + 20], start + 20 >= tokens, sequence)])
    return text


_seeds = itertools.count(1000)


def unlike_before() -> int:
    """A seed that no engine had: the freed caches of earlier ones hold the same bytes for the same prompts."""
    return next(_seeds)


class Watched(mmap.mmap):
    """Remembers what it held when it was given back."""

    closed_with: list[bytes] = []  # noqa: RUF012

    def close(self) -> None:
        self.closed_with.append(self[:])
        super().close()
