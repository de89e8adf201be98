"""What the daemon logs once the model is loaded, with a prominent warning if a GPU is not used."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tenantd.host_memory import host_memory
from tenantd.wire.messages import SHORT_PROMPT_TOKENS, EngineInfo

NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/gpus")
NVIDIA_SMI_TIMEOUT_S: Final = 10


def ready_line(name: str, info: EngineInfo) -> str:
    """Model, size, context, slots, KV bytes, device and layers offloaded, in one line."""
    context = f"{info.context_tokens} tokens"
    if info.context_tokens < info.train_context_tokens:
        context += f" (the model can take {info.train_context_tokens})"
    more = more_memory(info.swap_bytes, info.cache_bytes)
    more = more and f"{more}, "
    if info.images is not None:
        more += f"images by {info.images.projector}, "
    where = f"{info.device}, {info.layers_offloaded} of {info.layers} layers offloaded"
    return (
        f"ready: {name} ({count(info.parameters)} parameters, {size(info.model_bytes)}), "
        f"{info.slots} slots of {context}, KV {size(info.kv_bytes)} ({info.kv}, {info.kv_type}), "
        f"{more}{where}, {info.threads} thread{'' if info.threads == 1 else 's'}, llama.cpp {info.llama_version}"
    )


def more_memory(swap_bytes: int, cache_bytes: int) -> str:
    """How much more host memory may be taken as it is needed: "up to 1.0 GiB for paused requests", or ""."""
    parts = {"paused requests": swap_bytes, "cached prompts": cache_bytes}
    told = " and ".join(f"{size(part)} for {what}" for what, part in parts.items() if part)
    return told and f"up to {told}"


def memory_warnings(info: EngineInfo, host_bytes: int, weights: Sequence[float]) -> list[str]:
    """What is too much for the memory that is free once the model is loaded, and too little for a cache.

    `host_bytes` are for the cache, and are shared by these weights; none if nobody has a cache.
    """
    free_bytes, _ = host_memory()
    warnings: list[str] = []
    if (more_bytes := info.swap_bytes + (host_bytes if weights else 0)) > free_bytes:
        warnings.append(
            f"paused requests and cached prompts may take {size(more_bytes)}, but only {size(free_bytes)} of memory is "
            "free: lower engine.swap_bytes or cache.host_bytes, or the machine may have to swap"
        )
    if weights:
        least_bytes = host_bytes * min(weights) / sum(weights)
        warnings.append(cache_warning(info.short_state_bytes, info.state_bytes, info.context_tokens, least_bytes))
    return list(filter(None, warnings))


def cache_warning(short_bytes: int, state_bytes: int, context_tokens: int, share_bytes: float) -> str:
    """A warning if a share of the cache holds no short prompt, or none that fills the context; "" if it does.

    `short_bytes` and `state_bytes` are what these take; see `EngineInfo`.
    """
    share = f"cache.host_bytes leaves a tenant {size(int(share_bytes))}"
    if share_bytes < short_bytes:
        return (
            f"{share}, but a prompt of {SHORT_PROMPT_TOKENS} tokens takes {size(short_bytes)} there: hardly anything "
            "can be cached; raise it"
        )
    if share_bytes < state_bytes:
        tokens = int(context_tokens * share_bytes / state_bytes)
        return (
            f"{share}, but a prompt of {context_tokens} tokens takes {size(state_bytes)} there: prompts of more than "
            f"about {tokens} tokens are not cached"
        )
    return ""


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
