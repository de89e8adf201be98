"""Where the engines of the tests compute: on the CPU, or with all their layers on a device (`make device-test`)."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tenantd.llamacpp import devices
from tenantd.llamacpp.devices import Gpu

GPU_LAYERS: Final = int(os.environ.get("TENANTD_TEST_GPU_LAYERS", "0"))
"""What `gpu_layers` is in the tests: 0, or -1 for all layers."""
LOGITS_NOISE: Final = 0.02 if GPU_LAYERS else 0
"""How far the logits of two sequences with the same tokens are apart in one pass. A device computes the rows of a pass
by kernels that differ in their last digits."""
needs_cpu: Final = pytest.mark.needs_cpu
"""For tests of a model that is in host memory. tests/conftest.py leaves them out with layers on a device."""


def set_memory(monkeypatch: pytest.MonkeyPatch, free_bytes: int, total_bytes: int = 1 << 50) -> None:
    """So much memory is free where the model is put, and so much is there."""
    found = [Gpu(gpu.description, free_bytes, total_bytes, gpu.bus_id) for gpu in devices.gpus()[:1]]
    monkeypatch.setattr(devices, "gpus", lambda: found)
    monkeypatch.setattr(devices, "host_memory", lambda: (free_bytes, total_bytes))
