"""What is said when the model is loaded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tenantd import banner
from tests.api.fake_service import INFO

GPU_INFO = msgspec.structs.replace(
    INFO,
    parameters=268_098_176,
    model_bytes=253_000_000,
    context_tokens=4096,
    slots=8,
    kv_bytes=144 << 20,
    device="NVIDIA RTX 4090",
    layers=19,
    layers_offloaded=19,
    gpu_build=True,
)


def test_the_line_has_size_context_slots_kv_device_and_layers() -> None:
    line = banner.ready_line("gemma", GPU_INFO)
    for part in (
        "gemma",
        "268 M",
        "241.3 MiB",
        "8 slots of 4096 tokens",
        "KV 144.0 MiB (streams, f16)",
        "NVIDIA RTX 4090",
        "19 of 19",
    ):
        assert part in line
    one, two = (banner.ready_line("gemma", msgspec.structs.replace(GPU_INFO, threads=n)) for n in (1, 2))
    assert ", 1 thread," in one and ", 2 threads," in two


def test_a_gpu_that_a_cpu_build_cannot_use_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banner, "nvidia_gpu_present", lambda: True)
    assert "GGML_CUDA=on" in banner.gpu_warning(INFO)
    assert banner.gpu_warning(GPU_INFO) == ""
    monkeypatch.setattr(banner, "nvidia_gpu_present", lambda: False)
    assert banner.gpu_warning(INFO) == ""


def test_a_gpu_is_seen_through_the_driver_or_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not banner.nvidia_gpu_present(tmp_path / "none")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    assert not banner.nvidia_gpu_present(tmp_path / "none")
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA RTX (UUID: GPU-1)'\n")
    assert banner.nvidia_gpu_present(tmp_path / "none")
    tool.unlink()
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    assert banner.nvidia_gpu_present(tmp_path / "gpus")
