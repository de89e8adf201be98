"""Energy that NVIDIA GPUs have used, from the driver's library (NVML).

Only what is needed is bound, by hand: a handful of functions that have been the same since the driver has had them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

LIBRARY: Final = "libnvidia-ml.so.1"
SUCCESS: Final = 0  # nvml.h, nvmlReturn_t
NOT_SUPPORTED: Final = 3
NOT_FOUND: Final = 6

Counter = Callable[[], int]
"""Millijoules since some moment. Raises Unmeasurable."""


class Unmeasurable(Exception):
    """The driver does not tell what a device has used."""


def counters(bus_ids: Sequence[str], library: str = LIBRARY) -> list[Counter] | None:
    """Of GPUs, by their PCI bus ids, as "0000:c1:00.0". None without NVIDIA's driver, or if one of them is not
    NVIDIA's. Raises Unmeasurable."""
    try:
        lib = ctypes.CDLL(library)
    except OSError:
        return None
    _call(lib, "nvmlInit_v2")
    found: list[Counter] = []
    for bus_id in bus_ids:
        device = ctypes.c_void_p()
        status = _status(lib, "nvmlDeviceGetHandleByPciBusId_v2", bus_id.encode(), ctypes.byref(device))
        if status == NOT_FOUND:
            return None
        _check(lib, "nvmlDeviceGetHandleByPciBusId_v2", status)
        found.append(_counter(lib, device))
    return found


def _counter(lib: Any, device: ctypes.c_void_p) -> Counter:
    """The driver's own counter, which GPUs have since Volta, else the power added up."""
    used = ctypes.c_ulonglong()
    status = _status(lib, "nvmlDeviceGetTotalEnergyConsumption", device, ctypes.byref(used))
    if status == NOT_SUPPORTED:
        return _AddedUp(lib, device)
    _check(lib, "nvmlDeviceGetTotalEnergyConsumption", status)

    def read() -> int:
        _call(lib, "nvmlDeviceGetTotalEnergyConsumption", device, ctypes.byref(used))
        return used.value

    return read


class _AddedUp:
    """The power drawn at each reading, taken to have changed evenly since the one before."""

    def __init__(self, lib: Any, device: ctypes.c_void_p) -> None:
        self._lib, self._device = lib, device
        self._used_millijoules = 0.0
        self._before: tuple[float, int] | None = None  # when, and the power in milliwatts

    def __call__(self) -> int:
        power = ctypes.c_uint()
        _call(self._lib, "nvmlDeviceGetPowerUsage", self._device, ctypes.byref(power))
        now_s, milliwatts = time.monotonic(), power.value
        if self._before is not None:
            then_s, before = self._before
            self._used_millijoules += (before + milliwatts) / 2 * (now_s - then_s)
        self._before = now_s, milliwatts
        return round(self._used_millijoules)


def _call(lib: Any, name: str, *arguments: Any) -> None:
    _check(lib, name, _status(lib, name, *arguments))


def _status(lib: Any, name: str, *arguments: Any) -> int:
    try:
        function = getattr(lib, name)
    except AttributeError:
        raise Unmeasurable(f"the driver's {LIBRARY} has no {name}; update the driver") from None
    return int(function(*arguments))


def _check(lib: Any, name: str, status: int) -> None:
    """Raises Unmeasurable unless a call succeeded."""
    if status != SUCCESS:
        lib.nvmlErrorString.restype = ctypes.c_char_p
        raise Unmeasurable(f"{name}: {lib.nvmlErrorString(status).decode(errors='replace')}")
