"""Contexts that embed texts: one vector for each text instead of a token for each sequence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import llama_cpp

from tenantd.errors import ModelError
from tenantd.llamacpp import devices, log
from tenantd.llamacpp.gguf import model_file
from tenantd.llamacpp.handles import FLASH_ATTENTION, kind_of, open_model
from tenantd.llamacpp.header import read_header
from tenantd.wire.messages import Load, LoadEmbeddings

MOST_TEXTS: Final = 64
"""In one batch."""
POOLINGS: Final = {
    "model": llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED,
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
    "rank": llama_cpp.LLAMA_POOLING_TYPE_RANK,
}


def open_embedding_model(
    load: Load, model: Any, *, no_alloc: bool, progress: Callable[[float], None] | None = None
) -> Any:
    """The handle of the model that embeds: another one, or `model`, which generates. Raises ModelError."""
    path = _settings(load).model_path
    if not path:
        return model
    return open_model(load, model_file(path, "embeddings.model"), no_alloc=no_alloc, progress=progress)


def most_input_tokens(load: Load, model: Any) -> int:
    """The longest text: as configured, but no longer than the model was trained for."""
    trained = int(llama_cpp.llama_model_n_ctx_train(model))
    wanted = _settings(load).input_tokens
    return min(wanted, trained) if trained > 0 else wanted


def make_embedding_context(load: Load, model: Any) -> Any:
    """The handle of a context that computes any text in one piece, as models without causal attention need it.

    Raises ModelError, also if the file does not tell how to pool and the configuration does not either.
    """
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = most_input_tokens(load, model)
    params.n_seq_max = min(MOST_TEXTS, params.n_ctx)
    params.n_threads = params.n_threads_batch = load.threads or devices.default_threads()
    params.flash_attn_type = FLASH_ATTENTION[load.flash_attention]
    params.embeddings = True
    params.pooling_type = POOLINGS[_settings(load).pooling]
    params.kv_unified = True
    params.no_perf = True
    log.forget()
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        reason = log.reason("no reason given")
        raise kind_of(reason)(f"cannot create a context for embeddings: {reason}; lower embeddings.max_input_tokens")
    if llama_cpp.llama_pooling_type(context) not in list(POOLINGS.values())[1:]:
        llama_cpp.llama_free(context)
        raise ModelError(
            'embeddings.pooling = "model", but this model does not say how the vectors of its tokens are combined: set '
            'it to "mean", "cls" or "last", as its authors say'
        )
    if ranks(context) and not read_header(Path(_settings(load).model_path or load.model_path)).ranks:
        llama_cpp.llama_free(context)
        raise ModelError(
            "this model cannot rank documents: it has no classification head; set embeddings.pooling to what its "
            "authors say, or embeddings.model to a model that ranks (a reranker)"
        )
    return context


def ranks(context: Any) -> bool:
    """Whether it makes scores instead of vectors."""
    return bool(llama_cpp.llama_pooling_type(context) == llama_cpp.LLAMA_POOLING_TYPE_RANK)


def output_bytes(model: Any, tokens: int) -> int:
    """The memory that a context takes for results, which its log does not tell: llama.cpp has room for all tokens."""
    vocabulary = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))
    return 4 * tokens * (vocabulary + int(llama_cpp.llama_model_n_embd_out(model)))


def _settings(load: Load) -> LoadEmbeddings:
    assert load.embeddings is not None, "asked only where embeddings are configured"
    return load.embeddings
