"""What a model and its KV cache will take, before any of it is taken, and how much context fits.

The model is opened with `no_alloc`, with which llama.cpp reads only metadata and adds up what it would allocate. The
sizes are llama.cpp's own, read from its log.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import llama_cpp

from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp import devices, log
from tenantd.llamacpp.embedding_context import (
    make_embedding_context,
    most_input_tokens,
    open_embedding_model,
    output_bytes,
)
from tenantd.llamacpp.handles import make_context, open_model, spare_streams
from tenantd.llamacpp.planned import MemoryPlan as MemoryPlan
from tenantd.llamacpp.projectors import projector_bytes
from tenantd.wire.messages import SHORT_PROMPT_TOKENS, Load

ELASTIC_SWAP_BYTES: Final = 1 << 30
"""Up to this, the default, `engine.swap_bytes` gives way where memory is short; then more is computed again."""
LEAST_CONTEXT_TOKENS: Final = 4096
"""The context of a slot that is chosen even if it takes more than half of the free memory."""
CONTEXT_STEP_TOKENS: Final = 1024
UNKNOWN_CONTEXT_TOKENS: Final = 4096  # for a model that does not tell what it was trained for
MAX_CELLS: Final = (1 << 31) - 256  # the total context is 32 bits wide and rounded up to 256
QUICK_CELLS: Final = 1 << 22  # trying a context of this size takes 0.1 s and 200 MiB
KV_SIZE: Final = re.compile(r"llama_(?:kv_cache|memory_recurrent)\w*: +size = +([\d.]+) MiB")
COMPUTE_SIZE: Final = re.compile(r"compute buffer size = +([\d.]+) MiB")
MIB: Final = 1 << 20


def plan_memory(load: Load, path: Path) -> MemoryPlan:
    """Add up the memory without allocating it. Raises ModelError if it exceeds the machine's, NotEnoughMemory if the
    model exceeds what is free."""
    with opened(load, path) as plan:
        return plan(load)


@contextmanager
def opened(load: Load, path: Path) -> Iterator[Callable[[Load], MemoryPlan]]:
    """Open a model once, to plan how it could be loaded: like `load`, but with other slots, contexts and caches.

    Raises ModelError, here and for each plan.
    """
    log.capture()
    llama_cpp.llama_backend_init()
    with log.unheard():  # llama.cpp comments on the file, which it will do again, and on each context that is tried
        model = open_model(load, path, no_alloc=True)
        try:
            yield lambda one: _plan(one, path, model)
        finally:
            llama_cpp.llama_model_free(model)


def _plan(load: Load, path: Path, model: Any) -> MemoryPlan:
    sizes = _Sizes(load, model)
    where = _where(load)
    weights = int(llama_cpp.llama_model_size(model))
    trained = int(llama_cpp.llama_model_n_ctx_train(model))
    embeddings = _embedding_bytes(load, model) if load.embeddings is not None else 0
    projector = projector_bytes(load.projector_path) if load.projector_path else 0
    others = embeddings + projector
    cache = load.cache_bytes if load.has_caches else 0

    def plan(tokens: int, kv_and_compute: tuple[float, float]) -> MemoryPlan:
        kv, compute = map(int, kv_and_compute)
        in_host = weights + kv + compute + others if where.is_in_host else 0
        return MemoryPlan(
            context_tokens=tokens,
            train_context_tokens=trained,
            weights=weights,
            kv=kv,
            compute=compute,
            free=where.free,
            total=where.total,
            swap=_swap(load, where.host_total - in_host - cache),
            cache=cache,
            host_free=where.host_free,
            host_total=where.host_total,
            is_in_host=where.is_in_host,
            embeddings=embeddings,
            projector=projector,
            state=kv // sizes.sequences,
            short_state=int(sizes.of(min(SHORT_PROMPT_TOKENS, tokens))[0]) // sizes.sequences,
        )

    most_bytes = (where.free - weights - others) // 2
    if where.is_in_host:
        most_bytes = min(most_bytes, where.free - weights - others - cache - _swap(load, 0))
    context_tokens = _given(load, trained, sizes.most_tokens) or _chosen(sizes, trained, most_bytes)
    _check(load, path, plan(context_tokens, sizes.of(context_tokens)))
    result = plan(context_tokens, sizes.measured(context_tokens))
    _check(load, path, result)
    return result


def _swap(load: Load, left_bytes: int) -> int:
    """What paused requests may take if so much is left for them."""
    is_elastic = load.swap_bytes <= ELASTIC_SWAP_BYTES
    return max(0, min(load.swap_bytes, left_bytes)) if is_elastic else load.swap_bytes


def _embedding_bytes(load: Load, model: Any) -> int:
    """What embedding texts takes: a model of its own, if it has one, work space and results."""
    own = open_embedding_model(load, model, no_alloc=True)
    try:
        context = make_embedding_context(load, own)
        text = "\n".join(log.lines())
        llama_cpp.llama_free(context)
        found = [*KV_SIZE.findall(text), *COMPUTE_SIZE.findall(text)]
        weights = int(llama_cpp.llama_model_size(own)) if own is not model else 0
        return weights + int(sum(map(float, found)) * MIB) + output_bytes(own, most_input_tokens(load, own))
    finally:
        if own is not model:
            llama_cpp.llama_model_free(own)


class _Sizes:
    """KV cache and work space, in bytes, by the context of a slot. `model` was opened with `no_alloc`."""

    def __init__(self, load: Load, model: Any) -> None:
        self._load = load
        self._model = model
        self.sequences = load.slots + spare_streams(load, model)
        self.most_tokens = MAX_CELLS // self.sequences
        """What llama.cpp can hold in a slot."""
        self._known: dict[int, tuple[float, float]] = {}

    def of(self, context_tokens: int) -> tuple[float, float]:
        """Extrapolated from two small contexts if it is large, which takes time and memory even in a dry run.

        Layers with a sliding window stop growing at its size; the small contexts are assumed to exceed it.
        """
        if context_tokens <= self._quick_tokens:
            return self.measured(context_tokens)
        half, whole = self._small
        beyond = (context_tokens - self._quick_tokens) / (self._quick_tokens - self._quick_tokens // 2)
        kv, compute = (size + (size - of_half) * beyond for of_half, size in zip(half, whole, strict=True))
        return kv, compute

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


class _Where(NamedTuple):
    """Free and total memory in bytes; see `MemoryPlan`."""

    free: int
    total: int
    host_free: int
    host_total: int
    is_in_host: bool


def _where(load: Load) -> _Where:
    gpus = devices.gpus() if load.gpu_layers != 0 else []
    free = sum(gpu.free_bytes for gpu in gpus)
    total = sum(gpu.total_bytes for gpu in gpus)
    host_free, host_total = devices.host_memory()
    if gpus and load.gpu_layers < 0:
        return _Where(free, total, host_free, host_total, is_in_host=False)
    free, total = free + host_free, total + host_total  # the model is in host memory, whole or in part
    return _Where(free, total, free, total, is_in_host=True)


def _check(load: Load, path: Path, plan: MemoryPlan) -> None:
    if plan.needed > plan.free:
        kind = ModelError if plan.needed > plan.total else NotEnoughMemory
        apart = f", {plan.embeddings / MIB:,.0f} for embeddings" if plan.embeddings else ""
        apart += f", about {plan.projector / MIB:,.0f} for images" if plan.projector else ""
        smaller = ', set engine.kv_type to "q8_0" or "q4_0"' if load.kv_type == "f16" else ""
        raise kind(
            f"{path.name} needs {plan.needed / MIB:,.0f} MiB ({plan.weights / MIB:,.0f} weights, {plan.kv / MIB:,.0f} "
            f"KV cache for {load.slots} slots of {plan.context_tokens} tokens, {plan.compute / MIB:,.0f} work "
            f"space{apart}) "
            f"but {plan.free / MIB:,.0f} MiB are free: lower engine.slots or engine.context_tokens{smaller}, or choose "
            "a smaller model"
        )
    if plan.most_in_host > plan.host_total:
        model = f"{path.name} needs {plan.needed / MIB:,.0f} MiB, " if plan.is_in_host else ""
        raise ModelError(
            f"{model}paused requests may take {plan.swap / MIB:,.0f} MiB (engine.swap_bytes) and cached prompts "
            f"{plan.cache / MIB:,.0f} MiB (cache.host_bytes), but there are only {plan.host_total / MIB:,.0f} MiB of "
            "memory: lower one of them"
        )
