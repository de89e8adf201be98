"""A GGUF of two random layers, about 100 kB, that real llama.cpp loads and decodes. Its text means nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gguf
import numpy as np

N_EMBD, N_LAYER, N_HEAD, N_HEAD_KV, N_FF = 64, 2, 4, 2, 64
N_INNER, N_STATE, N_CONV, N_RANK = 2 * N_EMBD, 8, 4, 4
"""Of recurrent layers."""
WINDOW_TOKENS = 32

Architecture = Literal["llama", "gemma2", "mamba", "jamba"]
"""Two layers of attention; one with a sliding window and one without; two recurrent ones; one recurrent and one of
attention."""

CONTROL_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
FILL_IN_TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
USER_DEFINED_TOKENS = ("<tool>", "</tool>", "<think>", "</think>", "<|note|>", "<b>", "\n\n", "```")
WORDS = """
a all and answer are as be book but by can day do for from give good have he her his how in is it long make man many
more new no not of on one or other people say she so some that the their there they this time to two use was water we
what when which who will with word work would write year you
"""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'assistant' and '</think>' in message.content %}
        {{- '<|assistant|>\\n' + message.content.split('</think>')[-1] | trim + '<|end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|user|>\\n<tool>' + message.content + '</tool><|end|>\\n' }}
    {%- else %}
        {{- '<|' + message.role + '|>\\n' + message.content | trim + '<|end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""


def write_tiny_gguf(
    path: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    context_length: int = 2048,
    seed: int = 0,
    add_space_prefix: bool = True,
    is_packed: bool = True,
    architecture: Architecture = "llama",
    heads: int = N_HEAD,
    garbling_token: int | None = None,
    fills_in: bool = False,
) -> Path:
    """Write the model to `path`, the same bytes for the same arguments, and return `path`.

    A head has 64 / `heads` values. What comes after `garbling_token` is NaN, as if its weights had gone bad; for
    weights that are not packed. If it `fills_in`, its last tokens are those for that.
    Not packed, its weights are 32 bits wide, and a pass of another shape changes its logits by a millionth.
    """
    tokens = _tokens() + [(text, gguf.TokenType.CONTROL) for text in FILL_IN_TOKENS] * fills_in
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(context_length)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    kv_heads = heads * N_HEAD_KV // N_HEAD
    writer.add_head_count(heads)
    writer.add_head_count_kv([0, kv_heads] if architecture == "jamba" else kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(N_EMBD // heads)
    if architecture == "gemma2":
        writer.add_sliding_window(WINDOW_TOKENS)
    if architecture in ("mamba", "jamba"):
        writer.add_ssm_conv_kernel(N_CONV)
        writer.add_ssm_inner_size(N_INNER)
        writer.add_ssm_state_size(N_STATE)
        writer.add_ssm_time_step_rank(N_RANK)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if is_packed else gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_scores([-float(rank) for rank in range(len(tokens))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id([text for text, _ in tokens].index("<|end|>"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(add_space_prefix)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    _Tensors(writer, np.random.default_rng(seed), is_packed, garbling_token).add(architecture, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
    return path


def _tokens() -> list[tuple[str, gguf.TokenType]]:
    """Text and kind of each token, ids in order: unknown, BOS, EOS, 256 bytes, words, then the special ones."""
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{value:02X}>", kind.BYTE) for value in range(256)]
    # SentencePiece merges pairs, so a word needs each of its beginnings; whole words come first and merge first.
    words = [f"\u2581{word}" for word in WORDS.split()]
    beginnings = [word[:length] for word in words for length in range(2, len(word))]
    letters = [chr(code) for code in range(33, 127)] + ["\u2581"]
    tokens += [(text, kind.NORMAL) for text in dict.fromkeys([*words, *beginnings, *letters])]
    tokens += [(text, kind.CONTROL) for text in CONTROL_TOKENS]
    tokens += [(text, kind.USER_DEFINED) for text in USER_DEFINED_TOKENS]
    return tokens


class _Tensors:
    """Random weights, written one after the other."""

    def __init__(
        self, writer: gguf.GGUFWriter, random: np.random.Generator, is_packed: bool, garbling_token: int | None
    ) -> None:
        self._writer = writer
        self._garbling_token = garbling_token
        self._random = random
        self._is_packed = is_packed

    def add(self, architecture: Architecture, n_vocab: int) -> None:
        self._matrix("token_embd.weight", n_vocab, N_EMBD)
        for layer in range(N_LAYER):
            self._ones(f"blk.{layer}.attn_norm.weight", N_EMBD)
            is_recurrent = architecture == "mamba" or (architecture == "jamba" and layer == 0)
            if is_recurrent:
                self._recurrent(layer, has_norms=architecture == "jamba")
            else:
                self._attention(layer)
            if architecture != "mamba":
                self._feed_forward(layer)
            if architecture == "gemma2":
                self._ones(f"blk.{layer}.post_attention_norm.weight", N_EMBD)
                self._ones(f"blk.{layer}.post_ffw_norm.weight", N_EMBD)
        self._ones("output_norm.weight", N_EMBD)
        if architecture != "gemma2":  # its output is the embedding
            self._matrix("output.weight", n_vocab, N_EMBD)

    def _attention(self, layer: int) -> None:
        n_kv = N_EMBD // N_HEAD * N_HEAD_KV
        self._matrix(f"blk.{layer}.attn_q.weight", N_EMBD, N_EMBD)
        self._matrix(f"blk.{layer}.attn_k.weight", n_kv, N_EMBD)
        self._matrix(f"blk.{layer}.attn_v.weight", n_kv, N_EMBD)
        self._matrix(f"blk.{layer}.attn_output.weight", N_EMBD, N_EMBD)

    def _recurrent(self, layer: int, *, has_norms: bool) -> None:
        self._matrix(f"blk.{layer}.ssm_in.weight", 2 * N_INNER, N_EMBD)
        self._numbers(f"blk.{layer}.ssm_conv1d.weight", N_INNER, N_CONV)
        self._numbers(f"blk.{layer}.ssm_conv1d.bias", N_INNER)
        self._matrix(f"blk.{layer}.ssm_x.weight", N_RANK + 2 * N_STATE, N_INNER)
        self._numbers(f"blk.{layer}.ssm_dt.weight", N_INNER, N_RANK)
        self._numbers(f"blk.{layer}.ssm_dt.bias", N_INNER)
        decay = -np.exp(self._random.normal(0, 1, (N_INNER, N_STATE))).astype(np.float32)
        self._writer.add_tensor(f"blk.{layer}.ssm_a", decay)
        self._ones(f"blk.{layer}.ssm_d", N_INNER)
        self._matrix(f"blk.{layer}.ssm_out.weight", N_EMBD, N_INNER)
        if has_norms:
            self._ones(f"blk.{layer}.ssm_dt_norm.weight", N_RANK)
            self._ones(f"blk.{layer}.ssm_b_norm.weight", N_STATE)
            self._ones(f"blk.{layer}.ssm_c_norm.weight", N_STATE)

    def _feed_forward(self, layer: int) -> None:
        self._ones(f"blk.{layer}.ffn_norm.weight", N_EMBD)
        self._matrix(f"blk.{layer}.ffn_gate.weight", N_FF, N_EMBD)
        self._matrix(f"blk.{layer}.ffn_up.weight", N_FF, N_EMBD)
        self._matrix(f"blk.{layer}.ffn_down.weight", N_EMBD, N_FF)

    def _matrix(self, name: str, rows: int, columns: int) -> None:
        values = self._random.normal(0, 1 / np.sqrt(columns), (rows, columns)).astype(np.float32)
        if not self._is_packed:
            if self._garbling_token is not None and name == "token_embd.weight":
                values[self._garbling_token] = np.nan
            self._writer.add_tensor(name, values)
            return
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        self._writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def _numbers(self, name: str, *shape: int) -> None:
        """32 bits wide: llama.cpp takes no others there."""
        self._writer.add_tensor(name, self._random.normal(0, 0.5, shape).astype(np.float32))

    def _ones(self, name: str, size: int) -> None:
        self._writer.add_tensor(name, np.ones(size, np.float32))


def write_tiny_lora(path: Path, *, seed: int = 0, strength: float = 1.0, rank: int = 4) -> Path:
    """A LoRA adapter of the tiny model, on the output of every attention layer; `strength` 0 changes nothing."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    random = np.random.default_rng(seed)
    for layer in range(N_LAYER):
        for name in ("attn_q", "attn_output"):
            for half, shape in (("a", (rank, N_EMBD)), ("b", (N_EMBD, rank))):
                values = strength * random.normal(0, 1, shape).astype(np.float32)
                writer.add_tensor(f"blk.{layer}.{name}.weight.lora_{half}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
    return path
