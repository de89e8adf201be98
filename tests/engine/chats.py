"""A world of tenants that ask things alike: with the same beginnings, and with what they were answered before. Its
engine knows whose every token in a sequence is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Kept, Owner, Parked
from tenantd.engine.fake import END_TOKEN, FakeCompute
from tenantd.wire.messages import Submit
from tests.engine.world import SETTINGS, STEP_MICROS, World
from tests.support.loads import fake_load

Whose = tuple[str, int, str, int]
"""A tenant, the number of its cache or of a call (negative), and an adapter with its version."""


class MarkedCompute(FakeCompute):
    """Remembers who computed what it holds, and refuses what began with somebody else's."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.whose: Callable[[int], tuple[str, int]]  # a request's tenant, and with whom it may share
        self._bound_as: dict[int, Whose] = {}
        self._in_sequence: dict[int, Whose] = {}
        self._in_prefix: dict[int, Whose] = {}
        self.done: Counter[str] = Counter()
        self.fails = random.Random(0)
        self.failing = 0.0  # how often restoring and copying fails
        self.upkeep_s = 0.0  # how long each of the following takes

    def bind(self, sequence: int, *args: Any) -> int:
        *_, adapter, request, prefix = args
        mine = (*self.whose(request), *(self._version(adapter) or ("", 0)))
        if prefix:
            assert self._in_prefix[prefix] == mine, "a request begins with what is its own"
            self.done["hits"] += 1
        self._in_sequence[sequence] = self._bound_as[request] = mine
        return super().bind(sequence, *args)

    def move(self, source: int, target: int) -> None:
        self._sleep(self.upkeep_s)
        super().move(source, target)
        if source in self._in_sequence:
            self._in_sequence[target] = self._in_sequence[source]

    def clear(self, sequence: int) -> None:
        self._sleep(self.upkeep_s)
        super().clear(sequence)

    def swap_in(self, sequence: int, swapped: Any, request: int = 0) -> bool:
        self._sleep(self.upkeep_s)
        self._in_sequence[sequence] = self._bound_as[request]
        return super().swap_in(sequence, swapped, request)

    def park(self, sequence: int, request: int, prefix: int) -> Parked:
        self._sleep(self.upkeep_s)
        self.done["parked"] += 1
        self._in_prefix[prefix] = self._in_sequence[sequence]
        return super().park(sequence, request, prefix)

    def copy(self, source: int, target: int, owner: Owner, prefix: int, tokens: int) -> bool:
        self._sleep(self.upkeep_s)
        if self.fails.random() < self.failing:
            return False
        self.done[f"copies of a {owner.kind}"] += 1
        whose = self._in_prefix[owner.number] if owner.kind == "prefix" else self._in_sequence[source]
        self._in_prefix[prefix] = whose
        return super().copy(source, target, owner, prefix, tokens)

    def save(self, sequence: int, owner: Owner, prefix: int, room_bytes: int) -> Any:
        self._sleep(self.upkeep_s)
        self.done[f"states of a {owner.kind}"] += 1
        if owner.kind == "request":
            self._in_prefix[prefix] = self._in_sequence[sequence]
        return super().save(sequence, owner, prefix, room_bytes)

    def restore(self, sequence: int, kept: Kept) -> bool:
        self._sleep(self.upkeep_s)
        if self.fails.random() < self.failing:
            return False
        self.done["restored"] += 1
        return super().restore(sequence, kept)


@dataclass(repr=False)
class Chats(World):
    """`window_tokens` is the compute's, and it fails as often as `failing` says to copy or to restore. Anything but a
    pass takes it `upkeep_s`."""

    engine: Any = MarkedCompute
    window_tokens: int | None = None
    failing: float = 0.0
    upkeep_s: float = 0.0

    def _start(self) -> None:
        super()._start()
        self.compute.window_tokens = self.window_tokens
        self.compute.failing, self.compute.upkeep_s = self.failing, self.upkeep_s
        self.compute.whose = self._whose

    def step(self) -> None:
        began_s, told_micros = self.now_s, self.busy_micros
        super().step()
        assert self.busy_micros - told_micros == round((self.now_s - began_s) * 1e6), "it is somebody's, or nobody's"

    def _whose(self, request: int) -> tuple[str, int]:
        """The tenant, and its cache if that is on now, else the call."""
        submit = self.submits[request]
        share = self.shares.get(submit.tenant)
        return submit.tenant, share.cache if share and share.cache else -submit.group


def chats(
    slots: int = 4,
    chunk: int = 64,
    context_tokens: int = 2048,
    swap_bytes: int = 1 << 30,
    cache_bytes: int = 1 << 20,
    checkpoint_tokens: int = 128,
    window_tokens: int | None = None,
    failing: float = 0.0,
    upkeep_s: float = 0.0,
) -> Chats:
    load = fake_load(
        slots=slots,
        context_tokens=context_tokens,
        swap_bytes=swap_bytes,
        cache_bytes=cache_bytes,
        checkpoint_tokens=checkpoint_tokens,
        fake_step_micros=STEP_MICROS,
    )
    return Chats(load, chunk, SETTINGS, window_tokens=window_tokens, failing=failing, upkeep_s=upkeep_s)


def text(conversation: int, tokens: int, same: int = 40) -> list[int]:
    """The first tokens of a conversation. All begin with the same ones."""
    common, own = random.Random(7), random.Random(conversation)
    return [(common if i < same else own).randrange(256) for i in range(tokens)]


def alone(submit: Submit, sampling: Sampling) -> list[int]:
    """What a request is answered by an engine that does nothing else."""
    compute = FakeCompute(fake_load(slots=1, context_tokens=4096))
    compute.bind(0, sampling, [], [], submit.adapter, 1)
    tokens, chunk = [], submit.prompt
    position = 0
    while len(tokens) < submit.max_tokens:
        [sampled] = compute.run([Chunk(0, position, chunk, True, 1)]).sampled.values()
        if sampled.token == END_TOKEN:
            break
        position += len(chunk)
        chunk = [sampled.token]
        tokens.append(sampled.token)
    return tokens
