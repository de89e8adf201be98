"""An engine without a model: same interface, answers that are a fixed function of the tokens, any speed.

Used for simulation, fault tests and measuring everything around the model. The next token depends only on the tokens
of its own sequence, so a request that is interrupted and resumed gets the same tokens as an undisturbed one.
Tokens are bytes, as in `ByteVocabulary`; 257 ends a text.
"""

from __future__ import annotations

import math
import random
import time
import zlib
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenantd.domain import Sampling, TokenLogprobs
from tenantd.engine.compute import (
    Chunk,
    EngineBroken,
    Kept,
    OnLogits,
    OnPass,
    Owner,
    Parked,
    PassResult,
    RequestRejected,
    Sampled,
    Swapped,
    check_part,
)
from tenantd.wire.messages import EmbeddingInfo, EngineInfo, ImageInfo, Load, LoadEmbeddings

END_TOKEN: Final = 257
VOCABULARY: Final = 258
DEFAULT_CONTEXT_TOKENS: Final = 4096
_MASK: Final = (1 << 64) - 1
_LETTERS: Final = b"etaoinshrdlucmfw etaoinshrdlu yp. "
STATE_BYTES_PER_TOKEN: Final = 16
DIMENSIONS: Final = 32
"""Of the vectors of texts."""
IMAGES: Final = ImageInfo(projector="fake", tokens=16, before=[60], after=[62], side=64, model_bytes=0)
"""It looks at no pixel: the tokens of an image tell what it is."""
BROKEN_GRAMMAR: Final = "broken"
"""The only grammar that this engine rejects; it has no parser."""


Version = tuple[str, int]
"""An adapter: its path, and how often it was replaced."""


@dataclass(frozen=True, slots=True)
class FakeSwapped:
    """State of a swapped-out sequence. `is_whole`: all of it was kept."""

    sampling: Sampling
    length: int
    hash: int
    hashes: list[int]
    is_whole: bool
    size_bytes: int
    adapter: Version | None
    request: int

    def free(self) -> None:
        """Nothing to free."""


@dataclass(frozen=True, slots=True)
class FakeKept:
    """State of a prefix. `hashes` are those after each of its tokens."""

    prefix: int
    hashes: list[int]
    least_tokens: int
    adapter: Version | None

    @property
    def tokens(self) -> int:
        return len(self.hashes)

    @property
    def size_bytes(self) -> int:
        return self.tokens * STATE_BYTES_PER_TOKEN

    def free(self) -> None:
        """Nothing to free."""


class FakeCompute:
    """See the module docstring. A sequence's state is its length and a running hash of its tokens.

    `window_tokens`: longer sequences cannot be cut, as if the model had a sliding window; 0 is like a recurrent model.
    """

    window_tokens: int | None = None
    is_faster_when_full = False
    gpu_bus_ids: Sequence[str] = ()

    def __init__(self, load: Load, sleep: Callable[[float], None] = time.sleep) -> None:
        """`sleep` stands for the time of a pass: `load.fake_step_micros` and `fake_token_micros` for each token,
        which is also what is reported."""
        context_tokens = load.context_tokens or DEFAULT_CONTEXT_TOKENS
        self.info = EngineInfo(
            model="fake",
            parameters=0,
            model_bytes=0,
            train_context_tokens=context_tokens,
            context_tokens=context_tokens,
            slots=load.slots,
            vocabulary=VOCABULARY,
            kv=load.kv,
            kv_type=load.kv_type,
            kv_bytes=0,
            swap_bytes=load.swap_bytes,
            cache_bytes=load.cache_bytes if load.has_caches else 0,
            device="none",
            layers=0,
            layers_offloaded=0,
            gpu_build=False,
            threads=1,
            llama_version="none",
            fingerprint="fp_fake",
            embeddings=None if load.embeddings is None else _embedding_info(load.embeddings),
            images=IMAGES if load.projector_path else None,
        )
        self.on_logits: OnLogits | None = None
        self.on_pass: OnPass = lambda: None
        self._step_micros = load.fake_step_micros
        self._token_micros = load.fake_token_micros
        self._sleep = sleep
        self._sampling: list[Sampling | None] = [None] * load.slots
        self._length = [0] * load.slots
        self._hash = [0] * load.slots
        self._hashes: list[list[int]] = [[] for _ in range(load.slots)]  # after each token
        self._adapter: list[Version | None] = [None] * load.slots
        self._replaced: dict[str, int] = {}  # how often each adapter was
        self._request: list[int | None] = [None] * load.slots
        self._prefix = [0] * load.slots  # 0: none

    def bind(
        self,
        sequence: int,
        sampling: Sampling,
        history: list[int],
        generated: list[int],
        adapter: str = "",
        request: int = 0,
        prefix: int = 0,
    ) -> int:
        if prefix:
            self._check_owner(sequence, Owner("prefix", prefix))
            if _path(self._adapter[sequence]) != adapter:
                raise EngineBroken(f"prefix {prefix} was computed with another adapter")
        else:
            self._check_empty(sequence)
        if sampling.grammar == BROKEN_GRAMMAR:
            raise RequestRejected("cannot use the grammar", param="grammar")
        self._sampling[sequence] = sampling
        self._request[sequence], self._prefix[sequence] = request, 0
        if not prefix:
            self._set_adapter(sequence, self._version(adapter))
        return 0

    def _version(self, adapter: str) -> Version | None:
        return (adapter, self._replaced.get(adapter, 0)) if adapter else None

    def _set_adapter(self, sequence: int, adapter: Version | None) -> None:
        """An adapter changes the initial value of the hash."""
        self._adapter[sequence] = adapter
        self._hash[sequence] = zlib.crc32(adapter[0].encode(), adapter[1]) if adapter else 0

    def run(self, chunks: list[Chunk]) -> PassResult:
        started_ns = time.perf_counter_ns()
        sampled: dict[int, Sampled] = {}
        vectors: dict[int, bytes] = {}
        assert len({_path(self._adapter[chunk.sequence]) for chunk in chunks}) <= 1, "a pass has one adapter"
        for sequence, position, tokens, sample, request, texts, _ in chunks:
            sampling = self._sampling[sequence]
            if sampling is None or self._length[sequence] != (0 if texts else position):
                raise EngineBroken(f"sequence {sequence} holds {self._length[sequence]} tokens, not {position}")
            if self._request[sequence] != request:
                raise EngineBroken(f"sequence {sequence} belongs to request {self._request[sequence]}, not {request}")
            if texts:
                vectors[sequence] = _vectors(tokens, texts, self.info.embeddings)
                continue
            state, hashes = self._hash[sequence], self._hashes[sequence]
            for token in tokens:
                state = (state ^ token) * 0x9E3779B97F4A7C15 & _MASK
                state ^= state >> 29
                hashes.append(state)
            self._hash[sequence] = state
            self._length[sequence] = position + len(tokens)
            if self._length[sequence] > self.info.context_tokens:
                raise EngineBroken(f"sequence {sequence} is over its context")
            if sample:
                sampled[sequence] = self._choose(state, sampling)
                if self.on_logits is not None:
                    self.on_logits(sequence, _logits(state, sampled[sequence].token))
        if micros := self._step_micros + self._token_micros * sum(len(chunk.tokens) for chunk in chunks):
            self.on_pass()
            self._sleep(micros / 1e6)
            return PassResult(sampled, micros, vectors=vectors)
        return PassResult(sampled, (time.perf_counter_ns() - started_ns) // 1000, vectors=vectors)

    def _choose(self, state: int, sampling: Sampling) -> Sampled:
        if not sampling.ignore_eos and (state >> 40) % 61 == 0:
            return Sampled(END_TOKEN, True)
        token = _LETTERS[(state >> 32) % len(_LETTERS)]
        if sampling.logprobs is None:
            return Sampled(token, False)
        return Sampled(token, False, TokenLogprobs(-0.5, ((token, -0.5),) if sampling.logprobs else ()))

    def move(self, source: int, target: int) -> None:
        self._check_empty(target)
        self._sampling[target] = self._sampling[source]
        self._length[target] = self._length[source]
        self._hash[target] = self._hash[source]
        self._hashes[target] = self._hashes[source]
        self._adapter[target] = self._adapter[source]
        self._request[target] = self._request[source]
        self._prefix[target] = self._prefix[source]
        self.clear(source)

    def clear(self, sequence: int) -> None:
        self._sampling[sequence] = None
        self._length[sequence] = 0
        self._hash[sequence] = 0
        self._hashes[sequence] = []
        self._adapter[sequence] = None
        self._request[sequence] = None
        self._prefix[sequence] = 0

    def _check_empty(self, sequence: int) -> None:
        if self._sampling[sequence] is not None or self._length[sequence]:
            raise EngineBroken(f"sequence {sequence} is not empty")

    def _check_owner(self, sequence: int, owner: Owner) -> None:
        own = self._request[sequence] if owner.kind == "request" else self._prefix[sequence] or None
        if own != owner.number:
            raise EngineBroken(f"sequence {sequence} does not belong to {owner}")

    def swap_out(self, sequence: int, room_bytes: int) -> FakeSwapped:
        sampling, length, request = self._sampling[sequence], self._length[sequence], self._request[sequence]
        assert sampling is not None and request is not None, "only bound sequences are swapped out"
        size_bytes = length * STATE_BYTES_PER_TOKEN
        fits = size_bytes <= room_bytes
        size_bytes = size_bytes if fits else 0
        state, hashes, adapter = self._hash[sequence], self._hashes[sequence], self._adapter[sequence]
        swapped = FakeSwapped(sampling, length, state, hashes, fits, size_bytes, adapter, request)
        self.clear(sequence)
        return swapped

    def swap_in(self, sequence: int, swapped: Swapped, request: int = 0) -> bool:
        assert isinstance(swapped, FakeSwapped)
        self._check_empty(sequence)
        if swapped.request != request:
            raise EngineBroken(f"the state of request {swapped.request} was to be restored for request {request}")
        self._sampling[sequence] = swapped.sampling
        self._request[sequence] = request
        self._set_adapter(sequence, swapped.adapter)
        if swapped.is_whole:
            self._length[sequence], self._hash[sequence] = swapped.length, swapped.hash
            self._hashes[sequence] = swapped.hashes
        return swapped.is_whole

    # ---- prefixes ---------------------------------------------------------------------------------------------

    def adapter_version(self, adapter: str) -> Hashable:
        return self._version(adapter) or ()

    def replace_adapter(self, adapter: str) -> None:
        """Behave as if its file had been replaced."""
        self._replaced[adapter] = self._replaced.get(adapter, 0) + 1

    def park(self, sequence: int, request: int, prefix: int) -> Parked:
        self._check_owner(sequence, Owner("request", request))
        length = self._length[sequence]
        if not length:
            raise EngineBroken(f"sequence {sequence} was to be parked and is empty")
        self._sampling[sequence] = self._request[sequence] = None
        self._prefix[sequence] = prefix
        return Parked(length * STATE_BYTES_PER_TOKEN, self._least(length))

    def _least(self, length: int) -> int:
        return 0 if self.window_tokens is None or length <= self.window_tokens else length

    def cut(self, sequence: int, prefix: int, tokens: int) -> bool:
        self._check_owner(sequence, Owner("prefix", prefix))
        length = self._length[sequence]
        check_part(tokens, length)
        if tokens < length:
            if tokens < self._least(length):
                self.clear(sequence)
                return False
            self._fill(sequence, self._hashes[sequence][:tokens])
        return True

    def _fill(self, sequence: int, hashes: list[int]) -> None:
        self._hashes[sequence] = hashes
        self._length[sequence], self._hash[sequence] = len(hashes), hashes[-1]

    def copy(self, source: int, target: int, owner: Owner, prefix: int, tokens: int) -> bool:
        self._check_owner(source, owner)
        self._check_empty(target)
        length = self._length[source]
        check_part(tokens, length)
        if tokens < length and tokens < self._least(length):
            return False
        self._adapter[target] = self._adapter[source]
        self._prefix[target] = prefix
        self._fill(target, self._hashes[source][:tokens])
        return True

    def save(self, sequence: int, owner: Owner, prefix: int, room_bytes: int) -> FakeKept | None:
        self._check_owner(sequence, owner)
        hashes = self._hashes[sequence]
        if not hashes:
            raise EngineBroken(f"sequence {sequence} was to be saved and is empty")
        kept = FakeKept(prefix, hashes[:], self._least(len(hashes)), self._adapter[sequence])
        return kept if kept.size_bytes <= room_bytes else None

    def restore(self, sequence: int, kept: Kept) -> bool:
        assert isinstance(kept, FakeKept)
        self._check_empty(sequence)
        self._adapter[sequence] = kept.adapter
        self._prefix[sequence] = kept.prefix
        self._fill(sequence, kept.hashes[:])
        return True

    def holds_only(self, parked: Mapping[int, int]) -> bool:
        return all(
            self._sampling[sequence] is None
            and self._prefix[sequence] == parked.get(sequence, 0)
            and (length > 0) == (sequence in parked)
            for sequence, length in enumerate(self._length)
        )

    def is_empty(self) -> bool:
        return self.holds_only({})

    def close(self) -> None:
        """Nothing to free."""


def _path(version: Version | None) -> str:
    return version[0] if version else ""


def _embedding_info(load: LoadEmbeddings) -> EmbeddingInfo:
    ranks = load.pooling == "rank"
    return EmbeddingInfo(
        model="fake",
        dimensions=1 if ranks else DIMENSIONS,
        ranks=ranks,
        vocabulary=VOCABULARY,
        input_tokens=load.input_tokens,
        model_bytes=0,
        work_bytes=0,
    )


def _vectors(tokens: list[int], texts: Sequence[int], info: EmbeddingInfo | None = None) -> bytes:
    """Vectors of length 1, or scores, that depend only on the tokens of each text."""
    found = array("f")
    start = 0
    for length in texts:
        text = random.Random(bytes(token & 0xFF for token in tokens[start : start + length]))
        if info is not None and info.ranks:
            found.append(text.gauss(0, 4))
            start += length
            continue
        numbers = [text.gauss(0, 1) for _ in range(DIMENSIONS)]
        size = math.sqrt(sum(number * number for number in numbers))
        found.extend(number / size for number in numbers)
        start += length
    return found.tobytes()


def _logits(state: int, token: int) -> memoryview[float]:
    """What a model would have computed: the same for the same state, and the chosen token is the likeliest."""
    numbers = random.Random(state)
    logits = array("f", [numbers.random() for _ in range(VOCABULARY)])
    logits[token] = 1.0
    return memoryview(logits)
