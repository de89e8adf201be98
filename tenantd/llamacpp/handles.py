"""Opens models and makes contexts of llama.cpp. What it refuses becomes a ModelError that says what to change."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import llama_cpp

from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp import devices, log
from tenantd.wire.messages import Load

MAX_SEQUENCES: Final = 256  # llama-cparams.h, LLAMA_MAX_SEQ
FLASH_ATTENTION: Final = {"auto": -1, "off": 0, "on": 1}
KV_TYPES: Final = {
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}
UNFIT_KV_TYPE: Final = re.compile(
    r"[KV] cache type .* does not divide.*|quantized V cache (?:requires|was requested).*"
)
NO_MEMORY: Final = re.compile(r"allocat|out of memory|OutOfDeviceMemory|OutOfHostMemory", re.IGNORECASE)


def open_model(load: Load, path: Path, *, no_alloc: bool, progress: Callable[[float], None] | None = None) -> Any:
    """The model's handle. With `no_alloc`, only its metadata is read. Raises ModelError."""
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
        raise kind_of(reason)(f"{path}: llama.cpp cannot load it: {reason}")
    if not llama_cpp.llama_model_has_decoder(model) or llama_cpp.llama_model_has_encoder(model):
        llama_cpp.llama_model_free(model)
        raise ModelError(f"{path}: not a decoder-only text model")
    return model


def make_context(load: Load, model: Any, context_tokens: int) -> Any:
    """The handle of a context with slots of this size. Raises ModelError."""
    params = llama_cpp.llama_context_default_params()
    sequences = load.slots + spare_streams(load, model)
    params.n_ctx = context_tokens * sequences
    params.n_seq_max = sequences
    params.n_batch = params.n_ubatch = max(load.batch_tokens, sequences)
    params.n_outputs_max = sequences  # one token is sampled per sequence; the default reserves memory for every token
    params.n_threads = params.n_threads_batch = load.threads or devices.default_threads()
    params.flash_attn_type = FLASH_ATTENTION[load.flash_attention]
    params.type_k = params.type_v = KV_TYPES[load.kv_type]  # alike: GPU builds have no kernels for mixed types
    params.kv_unified = load.kv == "unified"
    params.swa_full = False  # sliding-window layers keep only their window
    params.no_perf = True
    if sequences > MAX_SEQUENCES:
        most = MAX_SEQUENCES - spare_streams(load, model)
        why = " (one is kept for security.scrub)" if most < MAX_SEQUENCES else ""
        raise ModelError(f"engine.slots = {load.slots}: llama.cpp supports at most {most} sequences{why}")
    log.forget()
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise _no_context(load, context_tokens)
    return context


def spare_streams(load: Load, model: Any) -> int:
    """Streams beyond the slots: one to scrub with, if a copy of it overwrites all that a request left."""
    return int(load.scrub and load.kv == "streams" and not has_recurrent_state(model))


def has_recurrent_state(model: Any) -> bool:
    """Whether it remembers in a state of fixed size, alone or beside a KV cache."""
    return bool(llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))


def _no_context(load: Load, context_tokens: int) -> ModelError:
    if unfit := UNFIT_KV_TYPE.search("\n".join(log.lines())):
        return ModelError(
            f'engine.kv_type = "{load.kv_type}" does not work here: {unfit[0]}; set it to "f16"'
            + (', or engine.flash_attention to "on"' if load.flash_attention == "off" else "")
        )
    reason = log.reason("no reason given")
    return kind_of(reason)(
        f"cannot create a context of {load.slots} slots of {context_tokens} tokens: {reason}; lower one of them"
    )


def kind_of(reason: str) -> type[ModelError]:
    """The error for llama.cpp's message: about memory, if another program took it after the dry run."""
    return NotEnoughMemory if NO_MEMORY.search(reason) else ModelError
