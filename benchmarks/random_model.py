"""A model of a common shape with random weights: as much work as Llama 3.2 1B, and text that means nothing.

    python benchmarks/random_model.py FILE.gguf [--layers 16]

16 layers of 2,048 values, 32 heads over 8 of keys and values, 8,192 in the feed-forward, 128,256 tokens; matrices are
q4_0, embeddings q8_0 and tied to the output. About 830 MB, in seconds: packed blocks are drawn instead of packed. For
speed only; the same file whenever it is written.
"""

from __future__ import annotations

import argparse
import itertools
import string
from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_HEAD, N_HEAD_KV, N_FF, N_VOCAB = 2048, 32, 8, 8192, 128_256
LAYERS = 16
CONTEXT_TOKENS = 131_072
BLOCK = 32  # values
BLOCK_BYTES = {gguf.GGMLQuantizationType.Q4_0: 18, gguf.GGMLQuantizationType.Q8_0: 34}  # a 16-bit scale, then values
DRAWN_DEVIATION = {gguf.GGMLQuantizationType.Q4_0: 4.61, gguf.GGMLQuantizationType.Q8_0: 73.9}  # of uniform bits


def write(path: Path, layers: int = LAYERS) -> None:
    """Write the model to `path`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random {layers}x{N_EMBD}")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500_000.0)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_vocab_size(N_VOCAB)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    tokens = vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_scores([-float(rank) for rank in range(len(tokens))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    add_tensors(writer, layers, np.random.default_rng(0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()


def vocabulary() -> list[tuple[str, gguf.TokenType]]:
    """Three special tokens, 256 bytes, and pieces of up to four letters, with and without a space before them."""
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{value:02X}>", kind.BYTE) for value in range(256)]
    pieces = (
        space + "".join(letters)
        for length in range(1, 5)
        for letters in itertools.product(string.ascii_lowercase, repeat=length)
        for space in ("\u2581", "")
    )
    others = [chr(code) for code in range(33, 127) if chr(code) not in string.ascii_lowercase]
    texts = ["\u2581", *others, *itertools.islice(pieces, N_VOCAB)]
    return (tokens + [(text, kind.NORMAL) for text in texts])[:N_VOCAB]


def add_tensors(writer: gguf.GGUFWriter, layers: int, rng: np.random.Generator) -> None:
    """All of them, of the sizes that such a model has."""

    def matrix(name: str, rows: int, columns: int, kind: gguf.GGMLQuantizationType) -> None:
        blocks = rng.integers(0, 256, (rows * columns // BLOCK, BLOCK_BYTES[kind]), dtype=np.uint8)
        scale = np.float16(1 / (DRAWN_DEVIATION[kind] * np.sqrt(columns)))
        blocks[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(N_EMBD, np.float32))

    small, n_kv = gguf.GGMLQuantizationType.Q4_0, N_EMBD // N_HEAD * N_HEAD_KV
    matrix("token_embd.weight", N_VOCAB, N_EMBD, gguf.GGMLQuantizationType.Q8_0)
    for layer in range(layers):
        norm(f"blk.{layer}.attn_norm.weight")
        matrix(f"blk.{layer}.attn_q.weight", N_EMBD, N_EMBD, small)
        matrix(f"blk.{layer}.attn_k.weight", n_kv, N_EMBD, small)
        matrix(f"blk.{layer}.attn_v.weight", n_kv, N_EMBD, small)
        matrix(f"blk.{layer}.attn_output.weight", N_EMBD, N_EMBD, small)
        norm(f"blk.{layer}.ffn_norm.weight")
        matrix(f"blk.{layer}.ffn_gate.weight", N_FF, N_EMBD, small)
        matrix(f"blk.{layer}.ffn_up.weight", N_FF, N_EMBD, small)
        matrix(f"blk.{layer}.ffn_down.weight", N_EMBD, N_FF, small)
    norm("output_norm.weight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="FILE.gguf")
    parser.add_argument("--layers", type=int, default=LAYERS)
    arguments = parser.parse_args()
    write(arguments.path, arguments.layers)
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
