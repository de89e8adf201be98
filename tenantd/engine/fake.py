"""An engine without a model: same interface, answers that are a fixed function of the tokens, any speed.

Used for simulation, fault tests and measuring everything around the model. The next token depends only on the tokens
of its own sequence, so a request that is interrupted and resumed gets the same tokens as an undisturbed one.
Tokens are bytes, as in `ByteVocabulary`; 257 ends a text.
"""

from __future__ import annotations

import random
import time
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tenantd.domain import Sampling, TokenLogprobs
from tenantd.engine.compute import Chunk, EngineBroken, OnLogits, PassResult, RequestRejected, Sampled, Swapped
from tenantd.wire.messages import EngineInfo, Load

END_TOKEN: Final = 257
VOCABULARY: Final = 258
DEFAULT_CONTEXT_TOKENS: Final = 4096
_MASK: Final = (1 << 64) - 1
_LETTERS: Final = b"etaoinshrdlucmfw etaoinshrdlu yp. "
STATE_BYTES_PER_TOKEN: Final = 16
BROKEN_GRAMMAR: Final = "broken"
"""The only grammar that this engine rejects; it has no parser."""


@dataclass(frozen=True, slots=True)
class FakeSwapped:
    """State of a swapped-out sequence. `is_whole`: all of it was kept."""

    sampling: Sampling
    length: int
    hash: int
    is_whole: bool
    size_bytes: int
    adapter: str
    request: int

    def free(self) -> None:
        """Nothing to free."""


class FakeCompute:
    """See the module docstring. A sequence's state is its length and a running hash of its tokens."""

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
            kv_bytes=0,
            device="none",
            layers=0,
            layers_offloaded=0,
            gpu_build=False,
            threads=1,
            llama_version="none",
        )
        self.on_logits: OnLogits | None = None
        self._step_micros = load.fake_step_micros
        self._token_micros = load.fake_token_micros
        self._sleep = sleep
        self._sampling: list[Sampling | None] = [None] * load.slots
        self._length = [0] * load.slots
        self._hash = [0] * load.slots
        self._adapter = [""] * load.slots
        self._request: list[int | None] = [None] * load.slots

    def bind(
        self,
        sequence: int,
        sampling: Sampling,
        history: list[int],
        generated: list[int],
        adapter: str = "",
        request: int = 0,
    ) -> int:
        self._check_empty(sequence)
        if sampling.grammar == BROKEN_GRAMMAR:
            raise RequestRejected("cannot use the grammar", param="grammar")
        self._sampling[sequence] = sampling
        self._request[sequence] = request
        self._set_adapter(sequence, adapter)
        return 0

    def _set_adapter(self, sequence: int, adapter: str) -> None:
        """An adapter changes the initial value of the hash."""
        self._adapter[sequence] = adapter
        self._hash[sequence] = zlib.crc32(adapter.encode())

    def run(self, chunks: list[Chunk]) -> PassResult:
        started_ns = time.perf_counter_ns()
        sampled: dict[int, Sampled] = {}
        assert len({self._adapter[chunk.sequence] for chunk in chunks}) <= 1, "a pass has one adapter"
        for sequence, position, tokens, sample, request in chunks:
            sampling = self._sampling[sequence]
            if sampling is None or self._length[sequence] != position:
                raise EngineBroken(f"sequence {sequence} holds {self._length[sequence]} tokens, not {position}")
            if self._request[sequence] != request:
                raise EngineBroken(f"sequence {sequence} belongs to request {self._request[sequence]}, not {request}")
            state = self._hash[sequence]
            for token in tokens:
                state = (state ^ token) * 0x9E3779B97F4A7C15 & _MASK
                state ^= state >> 29
            self._hash[sequence] = state
            self._length[sequence] = position + len(tokens)
            if self._length[sequence] > self.info.context_tokens:
                raise EngineBroken(f"sequence {sequence} is over its context")
            if sample:
                sampled[sequence] = self._choose(state, sampling)
                if self.on_logits is not None:
                    self.on_logits(sequence, _logits(state, sampled[sequence].token))
        if micros := self._step_micros + self._token_micros * sum(len(chunk.tokens) for chunk in chunks):
            self._sleep(micros / 1e6)
            return PassResult(sampled, micros)
        return PassResult(sampled, (time.perf_counter_ns() - started_ns) // 1000)

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
        self._adapter[target] = self._adapter[source]
        self._request[target] = self._request[source]
        self.clear(source)

    def clear(self, sequence: int) -> None:
        self._sampling[sequence] = None
        self._length[sequence] = 0
        self._hash[sequence] = 0
        self._adapter[sequence] = ""
        self._request[sequence] = None

    def _check_empty(self, sequence: int) -> None:
        if self._sampling[sequence] is not None or self._length[sequence]:
            raise EngineBroken(f"sequence {sequence} is not empty")

    def swap_out(self, sequence: int, room_bytes: int) -> FakeSwapped:
        sampling, length, request = self._sampling[sequence], self._length[sequence], self._request[sequence]
        assert sampling is not None and request is not None, "only bound sequences are swapped out"
        size_bytes = length * STATE_BYTES_PER_TOKEN
        fits = size_bytes <= room_bytes
        size_bytes = size_bytes if fits else 0
        adapter = self._adapter[sequence]
        swapped = FakeSwapped(sampling, length, self._hash[sequence], fits, size_bytes, adapter, request)
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
        return swapped.is_whole

    def is_empty(self) -> bool:
        return not any(self._length) and all(s is None for s in self._sampling)

    def close(self) -> None:
        """Nothing to free."""


def _logits(state: int, token: int) -> memoryview[float]:
    """What a model would have computed: the same for the same state, and the chosen token is the likeliest."""
    numbers = random.Random(state)
    logits = array("f", [numbers.random() for _ in range(VOCABULARY)])
    logits[token] = 1.0
    return memoryview(logits)
