"""What a model and its KV cache will take, before any of it is taken, and how much context fits.

The model is opened with `no_alloc`, with which llama.cpp reads only metadata and adds up what it would allocate. The
sizes are llama.cpp's own, read from its log.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import llama_cpp

from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp import devices, log
from tenantd.llamacpp.handles import make_context, open_model, spare_streams
from tenantd.wire.messages import Load

LEAST_CONTEXT_TOKENS: Final = 4096
"""The context of a slot that is chosen even if it takes more than half of the free memory."""
CONTEXT_STEP_TOKENS: Final = 1024
UNKNOWN_CONTEXT_TOKENS: Final = 4096  # for a model that does not tell what it was trained for
MAX_CELLS: Final = (1 << 31) - 256  # the total context is 32 bits wide and rounded up to 256
QUICK_CELLS: Final = 1 << 22  # trying a context of this size takes 0.1 s and 200 MiB
KV_SIZE: Final = re.compile(r"llama_(?:kv_cache|memory_recurrent)\w*: +size = +([\d.]+) MiB")
COMPUTE_SIZE: Final = re.compile(r"compute buffer size = +([\d.]+) MiB")
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All in bytes but `context_tokens`, the context of a slot, and `train_context_tokens`, the model's (0: unknown).

    `free` and `total` are of where the model is put: the GPUs, or the host.
    """

    context_tokens: int
    train_context_tokens: int
    weights: int
    kv: int
    compute: int
    free: int
    total: int

    @property
    def needed(self) -> int:
        """Weights, KV cache and work space."""
        return self.weights + self.kv + self.compute


def plan_memory(load: Load, path: Path) -> MemoryPlan:
    """Add up the memory without allocating it. Raises ModelError if it exceeds the machine's, NotEnoughMemory if it
    exceeds what is free."""
    log.capture()
    llama_cpp.llama_backend_init()
    with log.unheard():  # llama.cpp comments on the file, which it will do again, and on each context that is tried
        model = open_model(load, path, no_alloc=True)
        try:
            return _plan(load, path, model)
        finally:
            llama_cpp.llama_model_free(model)


def _plan(load: Load, path: Path, model: Any) -> MemoryPlan:
    sizes = _Sizes(load, model)
    free, total = _memory(load)
    weights = int(llama_cpp.llama_model_size(model))
    trained = int(llama_cpp.llama_model_n_ctx_train(model))

    def plan(tokens: int, kv_and_compute: tuple[float, float]) -> MemoryPlan:
        kv, compute = map(int, kv_and_compute)
        return MemoryPlan(tokens, trained, weights, kv, compute, free, total)

    context_tokens = _given(load, trained, sizes.most_tokens) or _chosen(sizes, trained, (free - weights) // 2)
    _check(load, path, plan(context_tokens, sizes.of(context_tokens)))
    result = plan(context_tokens, sizes.measured(context_tokens))
    _check(load, path, result)
    return result


class _Sizes:
    """KV cache and work space, in bytes, by the context of a slot. `model` was opened with `no_alloc`."""

    def __init__(self, load: Load, model: Any) -> None:
        self._load = load
        self._model = model
        self.most_tokens = MAX_CELLS // (load.slots + spare_streams(load, model))
        """What llama.cpp can hold in a slot."""
        self._known: dict[int, tuple[float, float]] = {}

    def of(self, context_tokens: int) -> tuple[float, float]:
        """Extrapolated from two small contexts if it is large, which takes time and memory even in a dry run.

        Layers with a sliding window stop growing at its size; the small contexts are assumed to exceed it.
        """
        if context_tokens <= self._quick_tokens:
            return self.measured(context_tokens)
        (half_kv, _), (kv, compute) = self._small
        beyond = (context_tokens - self._quick_tokens) / (self._quick_tokens - self._quick_tokens // 2)
        return kv + (kv - half_kv) * beyond, compute

    def measured(self, context_tokens: int) -> tuple[float, float]:
        """What llama.cpp adds up."""
        if context_tokens not in self._known:
            self._known[context_tokens] = self._measure(context_tokens)
        return self._known[context_tokens]

    def _measure(self, context_tokens: int) -> tuple[float, float]:
        context = make_context(self._load, self._model, context_tokens)
        text = "\n".join(log.lines())
        llama_cpp.llama_free(context)
        kv = sum(float(size) for size in KV_SIZE.findall(text)) * MIB
        return kv, sum(float(size) for size in COMPUTE_SIZE.findall(text)) * MIB

    @property
    def _quick_tokens(self) -> int:
        return QUICK_CELLS // self._load.slots

    @cached_property
    def _small(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return self.measured(self._quick_tokens // 2), self.measured(self._quick_tokens)


def _given(load: Load, trained: int, most_tokens: int) -> int:
    """The context that is configured; 0: none is."""
    if load.context_tokens > trained > 0:
        raise ModelError(
            f"engine.context_tokens = {load.context_tokens} is more than the {trained} tokens that this model was "
            f"trained for; lower it to at most {trained}"
        )
    if load.context_tokens > most_tokens:
        raise ModelError(
            f"{load.slots} slots of {load.context_tokens} tokens are more than the {MAX_CELLS} tokens that llama.cpp "
            "can hold; lower engine.slots or engine.context_tokens"
        )
    return load.context_tokens


def _chosen(sizes: _Sizes, trained: int, most_bytes: int) -> int:
    """The model's own context, or the largest of which all slots take at most this much memory."""
    most = min(trained or UNKNOWN_CONTEXT_TOKENS, sizes.most_tokens)
    least = min(most, LEAST_CONTEXT_TOKENS)

    def is_too_much(tokens: int) -> bool:
        return sum(sizes.of(tokens)) > most_bytes

    if most == least or not is_too_much(most):
        return most
    steps: Sequence[int] = range(least, most, CONTEXT_STEP_TOKENS)
    return steps[max(0, bisect.bisect_left(steps, True, key=is_too_much) - 1)]


def _memory(load: Load) -> tuple[int, int]:
    """Free and total memory of where the model is put, in bytes."""
    gpus = devices.gpus() if load.gpu_layers != 0 else []
    free = sum(gpu.free_bytes for gpu in gpus)
    total = sum(gpu.total_bytes for gpu in gpus)
    if not gpus or load.gpu_layers > 0:  # in host memory, whole or in part
        host_free, host_total = devices.host_memory()
        free, total = free + host_free, total + host_total
    return free, total


def _check(load: Load, path: Path, plan: MemoryPlan) -> None:
    if plan.needed > plan.free:
        kind = ModelError if plan.needed > plan.total else NotEnoughMemory
        smaller = ', set engine.kv_type to "q8_0" or "q4_0"' if load.kv_type == "f16" else ""
        raise kind(
            f"{path.name} needs {plan.needed / MIB:,.0f} MiB ({plan.weights / MIB:,.0f} weights, {plan.kv / MIB:,.0f} "
            f"KV cache for {load.slots} slots of {plan.context_tokens} tokens, {plan.compute / MIB:,.0f} work space) "
            f"but {plan.free / MIB:,.0f} MiB are free: lower engine.slots or engine.context_tokens{smaller}, or choose "
            "a smaller model"
        )
