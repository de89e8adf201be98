"""How llama.cpp was built, and whether it can use the GPU of this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, fail, ok, warn
from tenantd.errors import ModelError
from tenantd.printable import one_line

NAME: Final = "build"
DRIVER: Final = "driver"
TRIAL_TIMEOUT_S: Final = 60.0
SMI_TIMEOUT_S: Final = 10.0
DEVICES: Final = Path("/dev")
REBUILD: Final = 'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir llama-cpp-python=={}'
SMI: Final = ("--query-gpu=name,driver_version", "--format=csv,noheader")


class Machine(NamedTuple):
    """What was found: llama.cpp and what it can compute with, or why it does not run; the GPUs' files, NVIDIA's tool.

    `tool` is None without the tool.
    """

    package: str
    version: str
    backends: tuple[str, ...]
    can_offload: bool
    gpus: tuple[str, ...]
    trouble: str
    device_files: tuple[str, ...]
    tool: str | None
    tool_works: bool


def check(scene: Scene) -> list[Finding]:
    """Without CUDA on a machine with an NVIDIA GPU, with CUDA and no GPU, or well."""
    return judge(_look())


def judge(found: Machine) -> list[Finding]:
    """What that means."""
    has_nvidia = bool(found.device_files) or (found.tool is not None and found.tool_works)
    return [_build(found, has_nvidia), *_driver(found)]


def _build(found: Machine, has_nvidia: bool) -> Finding:
    if found.trouble:
        return fail(NAME, found.trouble, f"pip install --force-reinstall llama-cpp-python=={found.package}")
    what = f"llama.cpp {found.version} for {', '.join(found.backends) or 'no device'}"
    if found.gpus:
        return ok(NAME, f"{what}: {', '.join(found.gpus)}")
    if found.can_offload:
        return warn(NAME, f"{what} sees no GPU, so the model runs on the CPU", _why_unseen(found))
    if has_nvidia:
        return warn(NAME, f"{what} only, but this machine has an NVIDIA GPU", REBUILD.format(found.package))
    return ok(NAME, f"{what}; no NVIDIA GPU found")


def _why_unseen(found: Machine) -> str:
    if found.device_files:
        return "let this user open /dev/nvidia*, and check CUDA_VISIBLE_DEVICES (or GGML_VK_VISIBLE_DEVICES)"
    return "install the GPU's driver, or pass the GPU to this container or virtual machine"


def _driver(found: Machine) -> list[Finding]:
    if found.tool is None and found.device_files:
        return [warn(DRIVER, "there is an NVIDIA GPU but no nvidia-smi", "install the driver's tools")]
    if found.tool is None:
        return []
    if not found.tool_works:
        what = f"nvidia-smi fails: {found.tool}"
        return [warn(DRIVER, what, "restart the machine, or install the driver that matches its kernel")]
    return [ok(DRIVER, found.tool)]


def _look() -> Machine:
    from importlib.metadata import version

    from tenantd.llamacpp.trial import look_at_machine

    package = version("llama-cpp-python")
    files = tuple(sorted(path.name for path in DEVICES.glob("nvidia[0-9]*")))
    tool, tool_works = nvidia_tool()
    try:
        answer = look_at_machine(TRIAL_TIMEOUT_S)
    except ModelError as e:
        return Machine(package, "", (), False, (), e.message, files, tool, tool_works)
    gpus = tuple(gpu.description for gpu in answer.gpus)
    return Machine(
        package, answer.version, tuple(answer.backends), answer.can_offload, gpus, "", files, tool, tool_works
    )


def nvidia_tool() -> tuple[str | None, bool]:
    """What nvidia-smi says of GPUs and driver, and whether it works; None if there is no such tool."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None, False
    try:
        done = subprocess.run([tool, *SMI], capture_output=True, timeout=SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        is_late = isinstance(e, subprocess.TimeoutExpired)
        return f"no answer within {SMI_TIMEOUT_S:g} s" if is_late else str(e), False
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines() or ["no output"]
    if done.returncode:
        return one_line(lines[0], 200), False
    return one_line("; ".join(line.replace(", ", ", driver ") for line in lines), 200), True
