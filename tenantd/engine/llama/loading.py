"""Loads a model and creates a context, or raises a ModelError that says what to change.

The model is opened twice: first to plan its memory; then, if that is free, for real.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import llama_cpp
import msgspec

from tenantd.llamacpp import devices, log
from tenantd.llamacpp.fingerprint import fingerprint
from tenantd.llamacpp.gguf import model_file
from tenantd.llamacpp.handles import make_context, open_model, spare_streams
from tenantd.llamacpp.memory_plan import KV_SIZE, MIB, MemoryPlan, plan_memory
from tenantd.wire.messages import EngineInfo, Load

OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Handles of llama.cpp. Free the context first, then the model.

    `spare` is the sequence of a stream beyond the slots, which no request uses; see cells.py. `gpu_bus_ids` are as in
    `Compute`.
    """

    model: Any
    context: Any
    spare: int | None
    info: EngineInfo
    gpu_bus_ids: Sequence[str]


def load_model(load: Load, progress: Callable[[float], None]) -> Loaded:
    """Load the model. `progress` is called with 0.0 to 1.0. Raises ModelError."""
    path = model_file(load.model_path)
    progress(0.0)
    plan = plan_memory(load, path)
    model = open_model(load, path, no_alloc=False, progress=progress)
    offloaded = OFFLOADED.search("\n".join(log.lines()))
    context = make_context(load, model, plan.context_tokens)
    spare = load.slots if spare_streams(load, model) else None
    info = _info(load, model, context, plan, offloaded)
    gpus = devices.gpus() if info.layers_offloaded else []
    bus_ids = [gpu.bus_id for gpu in gpus] if all(gpu.bus_id for gpu in gpus) else []
    return Loaded(model, context, spare, msgspec.structs.replace(info, fingerprint=_fingerprint(path, info)), bus_ids)


def _fingerprint(path: Path, info: EngineInfo) -> str:
    """ "" if the file has been removed meanwhile; what was loaded of it serves."""
    try:
        return fingerprint(path, info.llama_version)
    except OSError:
        return ""


def _info(load: Load, model: Any, context: Any, plan: MemoryPlan, offloaded: re.Match[str] | None) -> EngineInfo:
    buffer = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, buffer, len(buffer))
    text = "\n".join(log.lines())
    layers = int(llama_cpp.llama_model_n_layer(model))
    gpus = devices.gpus() if load.gpu_layers != 0 else []
    return EngineInfo(
        model=buffer.value.decode("utf-8", "replace"),
        parameters=int(llama_cpp.llama_model_n_params(model)),
        model_bytes=int(llama_cpp.llama_model_size(model)),
        train_context_tokens=int(llama_cpp.llama_model_n_ctx_train(model)),
        # llama.cpp rounds the context up; do not offer more than was planned
        context_tokens=min(plan.context_tokens, int(llama_cpp.llama_n_ctx_seq(context))),
        slots=int(llama_cpp.llama_n_seq_max(context)) - spare_streams(load, model),
        vocabulary=int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))),
        kv=load.kv,
        kv_type=load.kv_type,
        kv_bytes=int(sum(float(size) for size in KV_SIZE.findall(text)) * MIB),
        swap_bytes=plan.swap,
        cache_bytes=plan.cache,
        state_bytes=plan.state,
        short_state_bytes=plan.short_state,
        device=", ".join(gpu.description for gpu in gpus) or "CPU",
        layers=int(offloaded[2]) if offloaded else layers + 1,
        layers_offloaded=int(offloaded[1]) if offloaded else 0,
        gpu_build=bool(llama_cpp.llama_supports_gpu_offload()),
        threads=int(llama_cpp.llama_n_threads(context)),
        llama_version=llama_cpp.llama_version().decode(),
    )
