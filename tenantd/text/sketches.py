"""Sketches of prompts: what the watch for model extraction sees of them, and all it keeps.

A sketch is made of keyed hashes of single tokens and of pairs: nobody without the key can tell which prompt it is of.
Its size is fixed, and so is the work: of a long prompt, blocks spread evenly over it are looked at.

The pairs' counts are projected at random. The signs of the projections are a SimHash (Charikar, STOC 2002): similar
prompts differ in few bits. Their cosines are random features of a Gaussian kernel (Rahimi and Recht, NIPS 2007): the
distance between the means of two sets of prompts is the maximum mean discrepancy, the test of arXiv 2606.05725. The
tokens are also counted by a HyperLogLog.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tenantd.domain import Sketch

FEATURES: Final = 64
"""Projections: bits of the SimHash, and random features."""
REGISTERS: Final = 128
"""Of the HyperLogLog; its error is 1.04 / sqrt(REGISTERS), 9%."""
BLOCKS: Final = 16
BLOCK_TOKENS: Final = 64
MOST_TOKENS: Final = BLOCKS * BLOCK_TOKENS
"""Maximum tokens looked at."""
KEY_BYTES: Final = 32
_BUCKETS: Final = 1024
_BANDWIDTH: Final = 2.0
"""Of the kernel exp(−(2 d)² / 2). `d` is the Hellinger distance of two prompts' counts times √2: 0 to 1.41."""
_ROOT_2: Final = np.float32(2**0.5)
_REGISTER_BITS: Final = np.uint64(7)  # REGISTERS is 2 to the power of this
_A: Final = np.uint64(0x9E3779B97F4A7C15)  # odd constants without structure: golden ratio, and two of MurmurHash3
_B: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_C: Final = np.uint64(0xFF51AFD7ED558CCD)

Counts = npt.NDArray[np.uint8]


class Sketcher:
    """Makes sketches. They can be compared only if they have the same key. Safe in threads."""

    def __init__(self, key: bytes) -> None:
        """`key`: `KEY_BYTES` random bytes that are kept secret."""
        self._key = key
        seeds = np.frombuffer(hashlib.blake2b(b"sketch", key=key, digest_size=32).digest(), np.uint64)
        self._salts = seeds[:2]
        random = np.random.default_rng(seeds)
        self._projection = random.standard_normal((_BUCKETS, FEATURES), np.float32)
        self._phase = random.uniform(0, 2 * np.pi, FEATURES).astype(np.float32)

    def sketch(self, prompt: Sequence[int]) -> Sketch:
        """Of one prompt, at least one token. Takes about 0.1 ms for any length."""
        tokens = np.array(sampled(prompt), np.uint64)
        pairs = tokens[:-1] * _A + tokens[1:] * _B
        hashes = _mixed(np.concatenate((tokens * _A, pairs)) + self._salts[0])
        counts = np.bincount((hashes >> np.uint64(54)).astype(np.int64), minlength=_BUCKETS)
        projected = np.sqrt(counts.astype(np.float32) / len(hashes)) @ self._projection
        digest = hashlib.blake2b(tokens.tobytes(), key=self._key, digest_size=8, salt=len(prompt).to_bytes(8, "big"))
        return Sketch(
            digest=int.from_bytes(digest.digest(), "big"),
            simhash=int(np.packbits(projected > 0).view(np.uint64)[0]),
            features=tuple(
                np.rint(127.5 * (1 + np.cos(_BANDWIDTH * projected + self._phase))).astype(np.uint8).tobytes()
            ),
            vocabulary=tuple(count_distinct(_mixed(tokens * _B + self._salts[1])).tobytes()),
        )


def sampled(prompt: Sequence[int]) -> Sequence[int]:
    """At most `MOST_TOKENS` tokens: all, or blocks spread evenly over the prompt."""
    if len(prompt) <= MOST_TOKENS:
        return prompt
    last = len(prompt) - BLOCK_TOKENS
    starts = [i * last // (BLOCKS - 1) for i in range(BLOCKS)]
    return [token for start in starts for token in prompt[start : start + BLOCK_TOKENS]]


def count_distinct(hashes: npt.NDArray[np.uint64]) -> Counts:
    """The registers of a HyperLogLog (Flajolet et al., 2007) that has seen these hashes."""
    registers = np.zeros(REGISTERS, np.uint8)
    rest = (hashes >> _REGISTER_BITS).astype(np.float64)  # 57 bits
    ranks = np.maximum(58 - np.frexp(rest)[1], 1).astype(np.uint8)  # leading zeros, and one
    np.maximum.at(registers, (hashes & np.uint64(REGISTERS - 1)).astype(np.int64), ranks)
    return registers


def add_distinct(registers: Counts, hashed: int) -> None:
    """Let the registers see one hash of 64 bits."""
    place, rest = hashed % REGISTERS, hashed // REGISTERS
    registers[place] = max(int(registers[place]), 58 - rest.bit_length())


def distinct(registers: Counts) -> float:
    """How many different hashes the registers have seen, about."""
    estimate = 0.7213 / (1 + 1.079 / REGISTERS) * REGISTERS**2 / float(np.sum(np.exp2(-registers.astype(np.float64))))
    empty = REGISTERS - int(np.count_nonzero(registers))
    if estimate <= 2.5 * REGISTERS and empty:
        return float(REGISTERS * np.log(REGISTERS / empty))
    return float(estimate)


def features(sketch: Sketch) -> npt.NDArray[np.float32]:
    """The random features of a sketch."""
    return (np.frombuffer(bytes(sketch.features), np.uint8).astype(np.float32) / 127.5 - 1) * _ROOT_2


def _mixed(values: npt.NDArray[np.uint64]) -> Any:
    values = (values ^ (values >> np.uint64(33))) * _C
    values = (values ^ (values >> np.uint64(33))) * _B
    return values ^ (values >> np.uint64(29))
