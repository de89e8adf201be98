"""Which GPUs a model is put on, and so whose memory counts."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from tenantd.llamacpp import devices

GIB = 1 << 30
CPU, GPU, INTEGRATED = 0, devices.DEVICE_TYPE_GPU, devices.DEVICE_TYPE_IGPU


class Backends:
    """ggml with these devices, each with its type."""

    def __init__(self, *types: int) -> None:
        self._types = types

    def ggml_backend_dev_count(self) -> int:
        return len(self._types)

    def ggml_backend_dev_get(self, device: int) -> int:
        return device

    def ggml_backend_dev_type(self, device: int) -> int:
        return self._types[device]

    def ggml_backend_dev_get_props(self, device: int, properties: Any) -> None:
        told = properties._obj
        told.description = f"device {device}".encode()
        told.free_bytes, told.total_bytes = device * GIB, 2 * device * GIB
        told.device_id = f"0000:c{device}:00.0".encode() if self._types[device] == GPU else None


def test_ggml_tells_its_properties_where_they_are_looked_for() -> None:
    lib, told = devices._lib, devices._Properties()
    lib.ggml_backend_dev_get_props(lib.ggml_backend_dev_get(0), ctypes.byref(told))  # the CPU, in a build without GPUs
    assert told.name and told.description and told.type in range(4)
    assert 0 < told.free_bytes <= told.total_bytes
    assert told.device_id is None or told.device_id.count(b":") == 2


@pytest.mark.parametrize(
    ("types", "taken"),
    [
        ((CPU,), []),
        ((GPU, INTEGRATED, GPU, CPU), [0, 2]),
        ((INTEGRATED, CPU), [0]),
        ((CPU, INTEGRATED, INTEGRATED), [1, 2]),
    ],
    ids=["none", "no integrated one beside others", "an integrated one alone", "two integrated ones"],
)
def test_integrated_gpus_are_taken_where_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch, types: tuple[int, ...], taken: list[int]
) -> None:
    monkeypatch.setattr(devices, "_lib", Backends(*types))
    found = [
        devices.Gpu(
            f"device {device}", device * GIB, 2 * device * GIB, f"0000:c{device}:00.0" if types[device] == GPU else ""
        )
        for device in taken
    ]
    assert devices.gpus() == found
