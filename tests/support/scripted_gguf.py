"""A GGUF that says what it is told to, through real llama.cpp: one that calls a tool of its own accord.

Its attention and feed-forward layers add nothing, so the next token depends on the last one only: a chain. The chat
template chooses where the chain begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

TOOL = "get_weather"
ARGUMENTS = '{"city": "Paris"}'
ANSWER = ("It", " is", " sunny", " in", " Paris", ".")
"""What it answers in chats without tools and after the result of one, a token each."""

_CALL = f'<tool_call>\n{{"name": "{TOOL}", "arguments": {ARGUMENTS}}}\n</tool_call>'
_SAY_CALL, _SAY_ANSWER, _END = "<|call|>", "<|answer|>", "<|im_end|>"
_CONTROL = ("<|im_start|>", _END, _SAY_CALL, _SAY_ANSWER)
_CHAINS = ((_SAY_CALL, _CALL, _END), (_SAY_ANSWER, *ANSWER, _END))
_CERTAIN = 20.0
"""Times 8, the logit of the next token; all others have 0."""
_WIDTH, _HEADS, _FEED_FORWARD = 64, 4, 64

TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\nCall one of these: <tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools>, as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>' + (call.function | tojson) + '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if tools and messages[-1].role != 'tool' %}{{- '<|call|>' }}{%- else %}{{- '<|answer|>' }}{%- endif %}
{%- endif %}
"""


def write_scripted_gguf(path: Path, *, context_length: int = 8192) -> Path:
    """Write the model to `path` and return `path`."""
    tokens = _tokens()
    texts = [text for text, _ in tokens]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("scripted")
    writer.add_context_length(context_length)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(texts.index(_END))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    _add_tensors(writer, texts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
    return path


def _tokens() -> list[tuple[str, gguf.TokenType]]:
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL)]
    tokens += [(f"<0x{value:02X}>", kind.BYTE) for value in range(256)]
    tokens += [(text, kind.CONTROL) for text in _CONTROL]
    # No letter is a token, so prompts are spelled in bytes, and these are never made of what somebody sends.
    tokens += [(text.replace(" ", "\u2581"), kind.NORMAL) for text in (_CALL, *ANSWER)]
    return tokens


def _add_tensors(writer: gguf.GGUFWriter, texts: Sequence[str]) -> None:
    """Each step of a chain has a dimension of its own. All else ends the answer."""
    ids = {text.replace("\u2581", " "): number for number, text in enumerate(texts)}
    steps = [(here, there) for chain in _CHAINS for here, there in itertools.pairwise(chain)]
    embedding = np.zeros((len(texts), _WIDTH), np.float32)
    output = np.zeros((len(texts), _WIDTH), np.float32)
    embedding[:, 0] = 1
    output[ids[_END], 0] = _CERTAIN
    for dimension, (here, there) in enumerate(steps, 1):
        embedding[ids[here]] = 0
        embedding[ids[here], dimension] = 1
        output[ids[there], dimension] = _CERTAIN
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(_WIDTH, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((_WIDTH, _WIDTH), np.float32))
    for name in ("ffn_gate", "ffn_up"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((_FEED_FORWARD, _WIDTH), np.float32))
    writer.add_tensor("blk.0.ffn_down.weight", np.zeros((_WIDTH, _FEED_FORWARD), np.float32))
