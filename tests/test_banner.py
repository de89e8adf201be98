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


def test_memory_that_is_taken_later_is_in_the_line_and_a_warning_if_it_is_more_than_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = msgspec.structs.replace(GPU_INFO, swap_bytes=1 << 30, cache_bytes=2 << 30)
    line = banner.ready_line("gemma", info)
    assert "up to 1.0 GiB for paused requests and 2.0 GiB for cached prompts, NVIDIA" in line
    assert "up to" not in banner.ready_line("gemma", msgspec.structs.replace(GPU_INFO, swap_bytes=0, cache_bytes=0))
    monkeypatch.setattr(banner, "host_memory", lambda: (5 << 29, 1 << 40))
    [warning] = banner.memory_warnings(info, 2 << 30, [1.0])
    assert "may take 3.0 GiB, but only 2.5 GiB of memory is free" in warning
    assert banner.memory_warnings(info, 2 << 30, []) == [], "nobody has a cache"
    assert banner.memory_warnings(info, 3 << 29, [1.0]) == []


def test_a_cache_that_is_too_small_for_any_prompt_or_for_long_ones_is_said_with_what_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(banner, "host_memory", lambda: (1 << 50, 1 << 50))
    info = msgspec.structs.replace(GPU_INFO, short_state_bytes=4 << 20, state_bytes=64 << 20)
    [little] = banner.memory_warnings(info, 3 << 20, [1.0])
    assert "leaves a tenant 3.0 MiB, but a prompt of 256 tokens takes 4.0 MiB there: hardly anything can be" in little
    [short] = banner.memory_warnings(info, 64 << 20, [3.0, 1.0])
    assert "leaves a tenant 16.0 MiB, but a prompt of 4096 tokens takes 64.0 MiB there: prompts of more than" in short
    assert "about 1024 tokens are not cached" in short
    assert banner.memory_warnings(info, 64 << 20, [1.0]) == []
