"""A projector of one random layer that real llama.cpp loads beside the model of tiny_gguf.py. What it sees means
nothing, but another image is something else to it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gguf
import numpy as np

from tests.support.tiny_gguf import N_EMBD as MODEL_WIDTH

SIDE, PATCH, MERGED = 32, 8, 2
"""An image has 4 × 4 patches; gemma3 makes one token of 2 × 2 of them."""
WIDTH, HEADS, N_FF = 32, 2, 32
TOKENS = {"gemma3": (SIDE // PATCH // MERGED) ** 2, "mlp": (SIDE // PATCH) ** 2}
"""Of one image, by kind."""

Kind = Literal["gemma3", "mlp"]
"""As gemma 3's, whose image tokens see each other both ways; or as LLaVA's."""


def write_tiny_projector(
    path: Path, *, kind: Kind = "gemma3", seed: int = 0, width: int = MODEL_WIDTH, side: int = SIDE
) -> Path:
    """Write the projector for a model with embeddings of `width` to `path`, and return `path`. It looks at squares of
    `side` pixels."""
    layers = 1 if kind == "gemma3" else 2  # LLaVA leaves the last one out
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name("tiny projector")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(kind)
    writer.add_vision_image_size(side)
    writer.add_vision_patch_size(PATCH)
    writer.add_vision_embedding_length(WIDTH)
    writer.add_vision_feed_forward_length(N_FF)
    writer.add_vision_block_count(layers)
    writer.add_vision_head_count(HEADS)
    writer.add_vision_projection_dim(width)
    writer.add_vision_projector_scale_factor(MERGED)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    random = np.random.default_rng(seed)

    def matrix(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(WIDTH, np.float32))

    matrix("v.patch_embd.weight", WIDTH, 3, PATCH, PATCH)
    matrix("v.position_embd.weight", (side // PATCH) ** 2, WIDTH)
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            matrix(f"v.blk.{layer}.{name}.weight", WIDTH, WIDTH)
        norm(f"v.blk.{layer}.ln1")
        norm(f"v.blk.{layer}.ln2")
        matrix(f"v.blk.{layer}.ffn_up.weight", N_FF, WIDTH)
        matrix(f"v.blk.{layer}.ffn_down.weight", WIDTH, N_FF)
    if kind == "gemma3":
        norm("v.post_ln")
        matrix("mm.input_projection.weight", WIDTH, width)
        writer.add_tensor("mm.soft_emb_norm.weight", np.ones(WIDTH, np.float32))
    else:
        for name, shape in (("mm.0", (width, WIDTH)), ("mm.2", (width, width))):
            matrix(f"{name}.weight", *shape)
            writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
    return path
