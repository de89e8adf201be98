"""Where a model can be loaded: GPUs that this build of llama.cpp sees, and free memory.

ggml's device functions are exported by the library but not bound by llama-cpp-python (ggml-backend.h).
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Final

import llama_cpp
import psutil

from tenantd.host_memory import host_memory as host_memory

DEVICE_TYPE_GPU: Final = 1  # ggml-backend.h, enum ggml_backend_dev_type
DEVICE_TYPE_IGPU: Final = 2

_lib = llama_cpp.llama_cpp._lib
_lib.ggml_backend_dev_count.restype = ctypes.c_size_t
_lib.ggml_backend_dev_get.restype = ctypes.c_void_p
_lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
_lib.ggml_backend_dev_description.restype = ctypes.c_char_p
_lib.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
_lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
_lib.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p] + [ctypes.POINTER(ctypes.c_size_t)] * 2
_lib.ggml_backend_dev_memory.restype = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that layers can be offloaded to, and its memory: currently free, and total."""

    description: str
    free_bytes: int
    total_bytes: int


def gpus() -> list[Gpu]:
    """GPUs that llama.cpp would offload to; none in a build without a GPU backend."""
    found: list[Gpu] = []
    for i in range(_lib.ggml_backend_dev_count()):
        device = _lib.ggml_backend_dev_get(i)
        if _lib.ggml_backend_dev_type(device) in (DEVICE_TYPE_GPU, DEVICE_TYPE_IGPU):
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            _lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            description = _lib.ggml_backend_dev_description(device).decode()
            found.append(Gpu(description, free.value, total.value))
    return found


def default_threads() -> int:
    """One thread per physical core available to this process but one; hyper-threads slow down matrix work.

    Threads wait for the slowest at every barrier, so one that shares its core with another program, or with the
    daemon's HTTP, would delay all.
    """
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(physical, len(os.sched_getaffinity(0))) - 1)
