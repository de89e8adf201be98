"""Host memory for what a request computed, while it has no sequence."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, Final

_MADV_DONTDUMP: Final = 16  # asm-generic/mman-common.h
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class LockedMemory:
    """Pages of their own, overwritten before they go back to the system.

    `is_locked`: the kernel never writes them to a swap device. RLIMIT_MEMLOCK bounds how much may be locked; what is
    beyond it is kept unlocked. Raises OSError if there is no memory.
    """

    def __init__(self, size_bytes: int) -> None:
        assert size_bytes > 0
        self.size_bytes = size_bytes
        self._pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pages.madvise(_MADV_DONTDUMP)
        self._bytes: Any = (ctypes.c_uint8 * size_bytes).from_buffer(self._pages)
        self.address = ctypes.addressof(self._bytes)
        self.is_locked = _libc.mlock(self.address, size_bytes) == 0

    @property
    def pointer(self) -> Any:
        """As llama.cpp takes it. Raises ValueError once it is wiped."""
        if self._bytes is None:
            raise ValueError("this memory was given back")
        return ctypes.cast(self.address, ctypes.POINTER(ctypes.c_uint8))

    def wipe(self) -> None:
        """Overwrite it and give it back. Nothing may use it afterwards. Safe to call twice."""
        if self._bytes is None:
            return
        ctypes.memset(self.address, 0, self.size_bytes)
        self._bytes = None
        self._pages.close()
