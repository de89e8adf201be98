"""Converts a model's vocabulary for llguidance, which decides which tokens a grammar allows next."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import llama_cpp
from llguidance import LLTokenizer

SPECIAL: Final = b"\xff"
"""Marks a token that no grammar text may match (same mark and rule as in llguidance/llamacpp.py)."""
MOST_PIECE_BYTES: Final = 4096


def grammar_tokenizer(vocabulary: Any, size: int, end_tokens: list[int]) -> LLTokenizer | None:
    """None if the vocabulary has no end-of-generation token, which grammars need. Takes a second for 262,144 tokens."""
    if not end_tokens:
        return None
    tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
    tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
        tokens=_pieces(vocabulary, size),
        vocab_ptr=vocabulary,
        tokenize_fptr=tokenize,
        eos_token=end_tokens,
        slices=None,
    )
    return tokenizer


def _pieces(vocabulary: Any, size: int) -> list[bytes]:
    piece, attributes = llama_cpp.llama_token_to_piece, llama_cpp.llama_vocab_get_attr
    control, user_defined = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL, llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
    buffer = ctypes.create_string_buffer(MOST_PIECE_BYTES)
    pieces: list[bytes] = []
    for token in range(size):
        length = piece(vocabulary, token, buffer, MOST_PIECE_BYTES, 0, True)
        text = ctypes.string_at(buffer, length) if length > 0 else b""
        has = attributes(vocabulary, token)
        looks_special = text.startswith(b"<") and text.endswith(b">")
        pieces.append(SPECIAL + text if has & control or (has & user_defined and looks_special) else text)
    return pieces
