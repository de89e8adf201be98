"""Loads a model and creates a context, or raises a ModelError that says what to change.

The model is opened twice: first with `no_alloc`, with which llama.cpp reads only metadata and adds up what it would
allocate; then, if that fits into free memory, for real. The sizes are llama.cpp's own, read from its log.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import llama_cpp

from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp import devices, log
from tenantd.llamacpp.gguf import model_file
from tenantd.wire.messages import EngineInfo, Load

DEFAULT_CONTEXT_TOKENS: Final = 4096
MAX_SEQUENCES: Final = 256  # llama-cparams.h, LLAMA_MAX_SEQ
MAX_CELLS: Final = (1 << 31) - 256  # the total context is 32 bits wide and rounded up to 256
QUICK_CELLS: Final = 1 << 22  # trying a context of this size takes 0.1 s and 200 MiB
FLASH_ATTENTION: Final = {"auto": -1, "off": 0, "on": 1}
KV_SIZE: Final = re.compile(r"llama_kv_cache\w*: +size = +([\d.]+) MiB")
COMPUTE_SIZE: Final = re.compile(r"compute buffer size = +([\d.]+) MiB")
OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers")
NO_MEMORY: Final = re.compile(r"allocat|out of memory|OutOfDeviceMemory|OutOfHostMemory", re.IGNORECASE)
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """Handles of llama.cpp. Free the context first, then the model.

    `spare` is the sequence of a stream beyond the slots, which no request uses; see cells.py.
    """

    model: Any
    context: Any
    spare: int | None
    info: EngineInfo


def load_model(load: Load, progress: Callable[[float], None]) -> Loaded:
    """Load the model. `progress` is called with 0.0 to 1.0. Raises ModelError."""
    log.capture()
    llama_cpp.llama_backend_init()
    path = model_file(load.model_path)
    progress(0.0)
    context_tokens = _dry_run(load, path)
    model = _open(load, path, no_alloc=False, progress=progress)
    context = _make_context(load, model, context_tokens)
    spare = load.slots if _spare_streams(load, model) else None
    return Loaded(model, context, spare, _info(load, model, context))


def _dry_run(load: Load, path: Path) -> int:
    """Add up the memory without allocating it. Returns the context of a slot in tokens. Raises ModelError."""
    model = _open(load, path, no_alloc=True)
    try:
        context_tokens = _context_tokens(load, model)
        weights = int(llama_cpp.llama_model_size(model))
        if load.slots * context_tokens > QUICK_CELLS:
            sizes = _estimated_sizes(load, model, context_tokens)
            _check_memory(load, path, context_tokens, weights, sizes)
        _check_memory(load, path, context_tokens, weights, _context_sizes(load, model, context_tokens))
    finally:
        llama_cpp.llama_model_free(model)
    return context_tokens


def _context_sizes(load: Load, model: Any, context_tokens: int) -> tuple[float, float]:
    """Bytes of KV cache and work space. `model` was opened with `no_alloc`."""
    log.forget()
    llama_cpp.llama_free(_make_context(load, model, context_tokens))
    text = "\n".join(log.lines())
    kv = sum(float(size) for size in KV_SIZE.findall(text)) * MIB
    return kv, sum(float(size) for size in COMPUTE_SIZE.findall(text)) * MIB


def _estimated_sizes(load: Load, model: Any, context_tokens: int) -> tuple[float, float]:
    """The same, extrapolated from two small contexts: a large one takes time and memory even in a dry run.

    Layers with a sliding window stop growing at its size; the small contexts are assumed to exceed it.
    """
    smaller_tokens = QUICK_CELLS // load.slots
    half_kv, _ = _context_sizes(load, model, smaller_tokens // 2)
    kv, compute = _context_sizes(load, model, smaller_tokens)
    return kv + (kv - half_kv) * (context_tokens - smaller_tokens) / (smaller_tokens - smaller_tokens // 2), compute


def _check_memory(load: Load, path: Path, context_tokens: int, weights: int, sizes: tuple[float, float]) -> None:
    """Raises ModelError if it exceeds the machine's memory, NotEnoughMemory if it exceeds what is free."""
    kv, compute = sizes
    gpus = devices.gpus() if load.gpu_layers != 0 else []
    free = sum(gpu.free_bytes for gpu in gpus)
    total = sum(gpu.total_bytes for gpu in gpus)
    if not gpus or load.gpu_layers > 0:  # in host memory, whole or in part
        host_free, host_total = devices.host_memory()
        free, total = free + host_free, total + host_total
    needed = weights + kv + compute
    if needed > free:
        kind = ModelError if needed > total else NotEnoughMemory
        raise kind(
            f"{path.name} needs {needed / MIB:,.0f} MiB ({weights / MIB:,.0f} weights, {kv / MIB:,.0f} KV cache for "
            f"{load.slots} slots of {context_tokens} tokens, {compute / MIB:,.0f} work space) but "
            f"{free / MIB:,.0f} MiB are free: lower engine.slots or engine.context_tokens, or choose a smaller model"
        )


def _context_tokens(load: Load, model: Any) -> int:
    trained = int(llama_cpp.llama_model_n_ctx_train(model))
    if load.context_tokens > trained > 0:
        raise ModelError(
            f"engine.context_tokens = {load.context_tokens} is more than the {trained} tokens that this model was "
            f"trained for; lower it to at most {trained}"
        )
    context_tokens = load.context_tokens or min(trained or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)
    if (load.slots + _spare_streams(load, model)) * context_tokens > MAX_CELLS:
        raise ModelError(
            f"{load.slots} slots of {context_tokens} tokens are more than the {MAX_CELLS} tokens that llama.cpp can "
            "hold; lower engine.slots or engine.context_tokens"
        )
    return context_tokens


def _open(load: Load, path: Path, *, no_alloc: bool, progress: Callable[[float], None] | None = None) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = load.gpu_layers
    params.no_alloc = no_alloc
    if no_alloc:
        params.load_mode = 0  # llama.h, LLAMA_LOAD_MODE_NONE: no_alloc does not work with mmap

    def report(fraction: float, _: Any) -> bool:
        if progress is not None:
            progress(fraction)
        return True

    callback = llama_cpp.llama_progress_callback(report)
    params.progress_callback = callback
    log.forget()
    model = llama_cpp.llama_model_load_from_file(bytes(path), params)
    if not model:
        reason = log.reason("no reason given")
        raise _kind(reason)(f"{path}: llama.cpp cannot load it: {reason}")
    if not llama_cpp.llama_model_has_decoder(model) or llama_cpp.llama_model_has_encoder(model):
        llama_cpp.llama_model_free(model)
        raise ModelError(f"{path}: not a decoder-only text model")
    return model


def _make_context(load: Load, model: Any, context_tokens: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    sequences = load.slots + _spare_streams(load, model)
    params.n_ctx = context_tokens * sequences
    params.n_seq_max = sequences
    params.n_batch = params.n_ubatch = max(load.batch_tokens, sequences)
    params.n_outputs_max = sequences  # one token is sampled per sequence; the default reserves memory for every token
    params.n_threads = params.n_threads_batch = load.threads or devices.default_threads()
    params.flash_attn_type = FLASH_ATTENTION[load.flash_attention]
    params.kv_unified = load.kv == "unified"
    params.swa_full = False  # sliding-window layers keep only their window
    params.no_perf = True
    if sequences > MAX_SEQUENCES:
        most = MAX_SEQUENCES - _spare_streams(load, model)
        why = " (one is kept for security.scrub)" if most < MAX_SEQUENCES else ""
        raise ModelError(f"engine.slots = {load.slots}: llama.cpp supports at most {most} sequences{why}")
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        reason = log.reason("no reason given")
        message = (
            f"cannot create a context of {load.slots} slots of {context_tokens} tokens: {reason}; lower one of them"
        )
        raise _kind(reason)(message)
    return context


def _spare_streams(load: Load, model: Any) -> int:
    """Streams beyond the slots: one to scrub with, if a copy of it overwrites all that a request left."""
    return int(load.scrub and load.kv == "streams" and not has_recurrent_state(model))


def has_recurrent_state(model: Any) -> bool:
    """Whether it remembers in a state of fixed size, alone or beside a KV cache."""
    return bool(llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))


def _kind(reason: str) -> type[ModelError]:
    """The error for llama.cpp's message: about memory, if another program took it after the dry run."""
    return NotEnoughMemory if NO_MEMORY.search(reason) else ModelError


def _info(load: Load, model: Any, context: Any) -> EngineInfo:
    buffer = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, buffer, len(buffer))
    text = "\n".join(log.lines())
    offloaded = OFFLOADED.search(text)
    layers = int(llama_cpp.llama_model_n_layer(model))
    gpus = devices.gpus() if load.gpu_layers != 0 else []
    return EngineInfo(
        model=buffer.value.decode("utf-8", "replace"),
        parameters=int(llama_cpp.llama_model_n_params(model)),
        model_bytes=int(llama_cpp.llama_model_size(model)),
        train_context_tokens=int(llama_cpp.llama_model_n_ctx_train(model)),
        # llama.cpp rounds the context up; do not offer more than was configured
        context_tokens=min(_context_tokens(load, model), int(llama_cpp.llama_n_ctx_seq(context))),
        slots=int(llama_cpp.llama_n_seq_max(context)) - _spare_streams(load, model),
        vocabulary=int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))),
        kv=load.kv,
        kv_bytes=int(sum(float(size) for size in KV_SIZE.findall(text)) * MIB),
        device=", ".join(gpu.description for gpu in gpus) or "CPU",
        layers=int(offloaded[2]) if offloaded else layers + 1,
        layers_offloaded=int(offloaded[1]) if offloaded else 0,
        gpu_build=bool(llama_cpp.llama_supports_gpu_offload()),
        threads=int(llama_cpp.llama_n_threads(context)),
        llama_version=llama_cpp.llama_version().decode(),
    )
