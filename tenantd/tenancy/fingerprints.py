"""Keyed hashes of prompts and texts, for the audit trail: equal texts of one tenant have equal hashes.

Each tenant has a random key of its own in the ledger. Without it nobody can match a hash with a text, however short,
or see that two tenants sent the same. Deleting the key makes all hashes made with it meaningless.

A hash is HMAC-SHA256 in hexadecimal: of a prompt, over its token ids as 32-bit little-endian numbers, as the engine
computes them, so with the system prompt and the chat template; of a text, over its UTF-8 bytes.
"""

from __future__ import annotations

import hmac
import sys
from array import array
from collections.abc import Sequence
from typing import Final

ALGORITHM: Final = "sha256"
TOKEN_TYPE: Final = "I"
assert array(TOKEN_TYPE).itemsize == 4, "the hashes would not be those of another machine"


def of_tokens(key: bytes, tokens: Sequence[int]) -> str:
    """The hash of a prompt. Takes about a millisecond for 30,000 tokens."""
    numbers = array(TOKEN_TYPE, tokens)
    if sys.byteorder == "big":
        numbers.byteswap()
    return hmac.digest(key, numbers.tobytes(), ALGORITHM).hex()


def of_bytes(key: bytes, *parts: bytes) -> str:
    """The hash of a text, or of anything else that is bytes, in one part or several."""
    if len(parts) == 1:
        return hmac.digest(key, parts[0], ALGORITHM).hex()
    whole = hmac.new(key, digestmod=ALGORITHM)
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def of_text(key: bytes, text: str) -> str:
    """The hash of a text. A lone surrogate counts as a question mark."""
    return of_bytes(key, text.encode("utf-8", "replace"))
