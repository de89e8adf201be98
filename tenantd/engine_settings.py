"""The tables of the configuration about the engine process: what it loads, how it runs, what it keeps, and
how it chooses tokens."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, create_model, model_validator

from tenantd.domain import CacheUse
from tenantd.samplers import SAMPLERS, Sampler
from tenantd.setting_kinds import File, Line, Section


class ModelConfig(Section):
    """The model to serve."""

    path: File | None = Field(default=None, description="GGUF file.", examples=["/path/to/model.gguf"])
    name: Line = Field("", description="Name shown to clients. Default: the file's name without .gguf.")
    projector: File | None = Field(
        default=None,
        description="GGUF file of the model's projector (mmproj), for models that read images. Unset: no images.",
        examples=["/path/to/mmproj.gguf"],
    )


class ImagesConfig(Section):
    """Images in chats, if model.projector is set. PNG and JPEG, sent with the request; nothing is fetched."""

    max_per_request: int = Field(8, ge=1, le=256, description="Maximum images in one request.")
    max_bytes: int = Field(16 * 1024 * 1024, ge=1, le=1 << 30, description="Largest image file.")
    max_pixels: int = Field(50_000_000, ge=1, le=1 << 28, description="Maximum pixels of an image, width times height.")
    timeout_s: float = Field(10, gt=0, le=600, description="Maximum time to decode one image.")
    bytes_per_tenant: int = Field(
        64 * 1024 * 1024,
        ge=1,
        le=1 << 34,
        description="Memory for the images of each tenant's requests until they have ended; more get 429.",
    )


class EngineConfig(Section):
    """How to run the model."""

    backend: Literal["llama", "fake"] = Field("llama", description='"fake" makes up text without a model, for tests.')
    slots: int = Field(8, ge=1, le=256, description="Requests that run at the same time (llama.cpp sequences).")
    context_tokens: int = Field(
        0,
        ge=0,
        le=1 << 24,
        description="Context of one slot. 0: the model's, or less so that all slots fit in half of the free memory.",
    )
    batch_tokens: int = Field(512, ge=32, le=8192, description="Maximum tokens in one forward pass.")
    kv: Literal["streams", "unified"] = Field("streams", description="A KV buffer for each slot, or one for all.")
    kv_type: Literal["f16", "q8_0", "q4_0"] = Field(
        "f16",
        description="Type of keys and values in the KV cache. q8_0 takes about half the memory of f16, q4_0 a quarter; "
        "both lose precision and need flash attention.",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads. 0: the number of physical cores, minus one.")
    gpu_layers: int = Field(-1, ge=-1, le=100_000, description="Layers to put on the GPU. -1: all.")
    flash_attention: Literal["auto", "on", "off"] = Field("auto", description="Flash attention.")
    swap_bytes: int = Field(
        1 << 30,
        ge=0,
        le=1 << 44,
        description="Host memory for the state of paused requests, taken only as needed. Values up to 1 GiB are "
        "lowered if memory is short.",
    )
    hang_timeout_s: float = Field(
        60, ge=0.1, le=3600, description="Restart an engine that completes no step for this long."
    )
    grammar_budget_ms: int = Field(
        5000, ge=1, le=3_600_000, description="Total CPU time for the grammar or JSON schema of one request."
    )
    load_timeout_s: float = Field(
        600, ge=1, le=86_400, description="Restart an engine that makes no progress while loading for this long."
    )
    reload_timeout_s: float = Field(
        60, ge=0, le=86_400, description="How long requests wait for an engine that fails to reload."
    )
    max_crashes: int = Field(5, ge=1, le=1000, description="Fail all requests after this many crashes in a row.")
    restart_delay_s: float = Field(0.2, ge=0, le=60, description="Initial delay before a restart; doubles up to 10 s.")
    fake_step_micros: int = Field(0, ge=0, le=10_000_000, description="Duration of a forward pass of the fake engine.")
    fake_token_micros: int = Field(0, ge=0, le=1_000_000, description="Additional duration for each token in the pass.")

    @model_validator(mode="after")
    def _quantised_with_flash_attention(self) -> Self:
        if self.kv_type != "f16" and self.flash_attention == "off":
            raise ValueError(f'kv_type = "{self.kv_type}" needs flash attention: set flash_attention to "auto"')
        return self


class EmbeddingsConfig(Section):
    """Embeddings (/v1/embeddings): a vector for each text; or scores of documents, if the model ranks (/v1/rerank)."""

    model: File | None = Field(
        default=None,
        description="GGUF file of the model. Unset: the served model if pooling is set, otherwise no embeddings.",
        examples=["/path/to/embedding-model.gguf"],
    )
    name: Line = Field("", description="Name shown to clients. Default: as for the served model.")
    pooling: Literal["model", "mean", "cls", "last", "rank"] = Field(
        "model",
        description='How the vectors of a text\'s tokens are combined. "model": as the file says. "rank": a score, '
        "from a model that ranks.",
    )
    max_input_tokens: int = Field(
        512,
        ge=1,
        le=131_072,
        description="Longest text; at most what the model was trained for. The memory for results grows with this "
        "times the size of the model's vocabulary.",
    )
    max_inputs: int = Field(2048, ge=1, le=16_384, description="Maximum texts in one request.")

    @property
    def is_on(self) -> bool:
        """Whether there are embeddings."""
        return self.model is not None or self.pooling != "model"


class CacheConfig(Section):
    """The prefix cache: what a tenant's prompts have in common is computed once. Tenants never share it."""

    default: Literal["off", "on"] = Field(
        "off",
        description="Cache the prompts of each tenant without its own setting (tenantctl tenant set --cache). Off "
        "keeps every request independent of earlier ones.",
    )
    host_bytes: int = Field(
        1 << 30,
        ge=0,
        le=1 << 44,
        description="Host memory for all cached prompts, shared by weight; taken only as it fills. 0: no cache.",
    )
    checkpoint_tokens: int = Field(
        512,
        ge=16,
        le=1 << 24,
        description="Distance in tokens between the copies kept of a long prompt, for models that cannot go back to an "
        "earlier token (sliding windows, recurrent).",
    )

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if self.default == "on" and not self.host_bytes:
            raise ValueError('default is "on", but host_bytes = 0 leaves no room; raise it or set default to "off"')
        return self

    def is_on(self, own: CacheUse) -> bool:
        """Whether a tenant with this setting of its own has a cache."""
        return self.host_bytes > 0 and (self.default if own is CacheUse.DEFAULT else own) == "on"


def _sampler(one: Sampler) -> Any:
    """The setting of a sampler's default."""
    return one.kind, Field(one.default, description=one.help, **one.bounds)


_SamplerDefaults: Any = create_model(
    "_SamplerDefaults", __base__=Section, **{name: _sampler(one) for name, one in SAMPLERS.items()}
)


class SamplingConfig(_SamplerDefaults):
    """How tokens are chosen if a request does not say. For the model's own probabilities: top_k 0, top_p 1, min_p 0."""
