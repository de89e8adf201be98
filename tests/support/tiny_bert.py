"""A GGUF of a BERT of two random layers that real llama.cpp loads and embeds with. Its vectors mean nothing."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_LAYER, N_HEAD, N_FF = 64, 2, 4, 128
WORDS = "a and cat dog for in is it of on red sat the to"


def write_tiny_bert(
    path: Path, *, context_length: int = 64, seed: int = 0, has_pooling: bool = True, ranks: bool = False
) -> Path:
    """Write the model to `path`, the same bytes for the same arguments, and return `path`. If it `ranks`, it makes a
    score of a text."""
    tokens = _tokens()
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny-bert")
    writer.add_context_length(context_length)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if has_pooling:
        writer.add_pooling_type(gguf.PoolingType.RANK if ranks else gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_vocabulary(writer, tokens)
    random = np.random.default_rng(seed)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(N_EMBD, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(N_EMBD, np.float32))

    tensor("token_embd.weight", len(tokens), N_EMBD)
    tensor("token_types.weight", 2, N_EMBD)
    tensor("position_embd.weight", context_length, N_EMBD)
    norm("token_embd_norm")
    for layer in range(N_LAYER):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", N_EMBD, N_EMBD)
            tensor(f"blk.{layer}.{name}.bias", N_EMBD)
        norm(f"blk.{layer}.attn_output_norm")
        tensor(f"blk.{layer}.ffn_up.weight", N_FF, N_EMBD)
        tensor(f"blk.{layer}.ffn_up.bias", N_FF)
        tensor(f"blk.{layer}.ffn_down.weight", N_EMBD, N_FF)
        tensor(f"blk.{layer}.ffn_down.bias", N_EMBD)
        norm(f"blk.{layer}.layer_output_norm")
    if ranks:
        tensor("cls.weight", N_EMBD, N_EMBD)
        tensor("cls.bias", N_EMBD)
        tensor("cls.output.weight", 1, N_EMBD)
        tensor("cls.output.bias", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
    return path


def _tokens() -> list[tuple[str, gguf.TokenType]]:
    kind = gguf.TokenType
    tokens = [(text, kind.CONTROL) for text in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")]
    tokens += [(f"\u2581{word}", kind.NORMAL) for word in (*WORDS.split(), *"abcdefghijklmnopqrstuvwxyz0123456789.,!?")]
    tokens += [(letter, kind.NORMAL) for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    return list(dict(tokens).items())


def _add_vocabulary(writer: gguf.GGUFWriter, tokens: list[tuple[str, gguf.TokenType]]) -> None:
    writer.add_vocab_size(len(tokens))
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([each for _, each in tokens])
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_pad_token_id(0)
