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
_lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
_lib.ggml_backend_dev_get_props.restype = None
_lib.ggml_backend_dev_get_props.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_lib.ggml_backend_reg_count.restype = ctypes.c_size_t
_lib.ggml_backend_reg_get.restype = ctypes.c_void_p
_lib.ggml_backend_reg_get.argtypes = [ctypes.c_size_t]
_lib.ggml_backend_reg_name.restype = ctypes.c_char_p
_lib.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]


class _Properties(ctypes.Structure):
    """ggml-backend.h, ggml_backend_dev_props."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("free_bytes", ctypes.c_size_t),
        ("total_bytes", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("capabilities", ctypes.c_bool * 64),  # more than there are
    )


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that layers can be offloaded to, and its memory: currently free, and total.

    `bus_id` is that of PCI, as "0000:c1:00.0"; "" if it has none.
    """

    description: str
    free_bytes: int
    total_bytes: int
    bus_id: str = ""


def gpus() -> list[Gpu]:
    """GPUs that llama.cpp would offload to; none in a build without a GPU backend."""
    found: list[tuple[int, Gpu]] = []
    for i in range(_lib.ggml_backend_dev_count()):
        device = _lib.ggml_backend_dev_get(i)
        kind = _lib.ggml_backend_dev_type(device)
        if kind in (DEVICE_TYPE_GPU, DEVICE_TYPE_IGPU):
            told = _Properties()
            _lib.ggml_backend_dev_get_props(device, ctypes.byref(told))
            bus_id = (told.device_id or b"").decode()
            found.append((kind, Gpu(told.description.decode(), told.free_bytes, told.total_bytes, bus_id)))
    return _chosen(found)


def backends() -> list[str]:
    """What this build can compute with: CPU, CUDA, Vulkan and the like."""
    return [
        _lib.ggml_backend_reg_name(_lib.ggml_backend_reg_get(i)).decode() for i in range(_lib.ggml_backend_reg_count())
    ]


def _chosen(found: list[tuple[int, Gpu]]) -> list[Gpu]:
    """Integrated GPUs are taken only if there are no others (llama.cpp, `llama_prepare_model_devices`)."""
    discrete = [gpu for kind, gpu in found if kind == DEVICE_TYPE_GPU]
    return discrete or [gpu for _, gpu in found]


def default_threads() -> int:
    """One thread per physical core available to this process but one; hyper-threads slow down matrix work.

    Threads wait for the slowest at every barrier, so one that shares its core with another program, or with the
    daemon's HTTP, would delay all.
    """
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(physical, len(os.sched_getaffinity(0))) - 1)
