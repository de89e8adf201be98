"""What the daemon logs once the model is loaded, with a prominent warning if a GPU is not used."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tenantd.wire.messages import EngineInfo

NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/gpus")
NVIDIA_SMI_TIMEOUT_S: Final = 10


def ready_line(name: str, info: EngineInfo) -> str:
    """Model, size, context, slots, KV bytes, device and layers offloaded, in one line."""
    context = f"{info.context_tokens} tokens"
    if info.context_tokens < info.train_context_tokens:
        context += f" (the model can take {info.train_context_tokens})"
    where = f"{info.device}, {info.layers_offloaded} of {info.layers} layers offloaded"
    return (
        f"ready: {name} ({count(info.parameters)} parameters, {size(info.model_bytes)}), "
        f"{info.slots} slots of {context}, KV {size(info.kv_bytes)} ({info.kv}, {info.kv_type}), "
        f"{where}, {info.threads} thread{'' if info.threads == 1 else 's'}, llama.cpp {info.llama_version}"
    )


def gpu_warning(info: EngineInfo) -> str:
    """A warning if there is a GPU that is not used, else "". May take seconds, so do not call it in the event loop."""
    if info.gpu_build or not nvidia_gpu_present():
        return ""
    return (
        "\n" + "!" * 100 + "\n"
        "!! This machine has an NVIDIA GPU, but llama.cpp was built without CUDA: the model runs on the CPU.\n"
        '!! To rebuild:  CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir '
        "llama-cpp-python\n" + "!" * 100
    )


def nvidia_gpu_present(driver: Path = NVIDIA_DRIVER) -> bool:
    """Whether the driver or nvidia-smi lists a GPU (WSL has only the latter)."""
    try:
        if any(driver.iterdir()):
            return True
    except OSError:
        pass  # no driver, or a container that hides it: ask the tool
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and b"GPU " in answer.stdout


def size(size_bytes: int) -> str:
    """A size in binary units: 1.5 GiB."""
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= step:
            return f"{size_bytes / step:.1f} {unit}"
    return f"{size_bytes} B"


def count(number: int) -> str:
    """A number of parameters: 268 M."""
    for unit, step in (("B", 10**9), ("M", 10**6)):
        if number >= step:
            return f"{number / step:.3g} {unit}"
    return str(number)
