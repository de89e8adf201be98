"""Where the engines of the tests compute: on the CPU, or with all their layers on a device (`make device-test`)."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tenantd.llamacpp import devices
from tenantd.llamacpp.devices import Gpu

GPU_LAYERS: Final = int(os.environ.get("TENANTD_TEST_GPU_LAYERS", "0"))
"""What `gpu_layers` is in the tests: 0, or -1 for all layers."""
LOGITS_NOISE: Final = 0.05 if GPU_LAYERS else 0
"""How far logits of the same tokens may be apart on a device. It may add up in 16 bits, by kernels that depend on the
number of rows in a pass, and in the order of all cells, masked ones included. That makes up to 0.021 on Mesa's, and
0.0001 if it must use 32 bits (GGML_VK_DISABLE_F16). In the same shape and the same cells, no bit differs. One other
token in forty makes 0.2 or more."""
VECTORS_NOISE: Final = 3e-3 if GPU_LAYERS else 1e-4
"""The same of the numbers of a vector of length 1: up to 0.0013 on Mesa's device. One other token in thirty makes 0.007
or more."""
needs_cpu: Final = pytest.mark.needs_cpu
"""For tests of a model that is in host memory. tests/conftest.py leaves them out with layers on a device."""


def set_memory(monkeypatch: pytest.MonkeyPatch, free_bytes: int, total_bytes: int = 1 << 50) -> None:
    """So much memory is free where the model is put, and so much is there."""
    found = [Gpu(gpu.description, free_bytes, total_bytes, gpu.bus_id) for gpu in devices.gpus()[:1]]
    monkeypatch.setattr(devices, "gpus", lambda: found)
    monkeypatch.setattr(devices, "host_memory", lambda: (free_bytes, total_bytes))
