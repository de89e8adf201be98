"""What the checks of isolation have in common: sequences of a Compute, what they hold, and what they are fed.

A stage knows everything that a check has bound or kept, so that it can be cleared at any point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Compute, Kept, Owner, PassResult, RequestRejected, Sampled, Swapped
from tenantd.wire.messages import CheckResult

FIRST_ORDINARY_TOKEN: Final = 1000
LAST_ORDINARY_TOKEN: Final = 100_000
PRINTABLE_BYTES: Final = range(32, 127)
"""Ids of ordinary tokens in a vocabulary that is too small to have `FIRST_ORDINARY_TOKEN`."""
MOST_STATE_BYTES: Final = 256 << 20
"""Room for the state of a swapped-out sequence; one that does not fit is computed again."""
LEAST_CONTEXT_TOKENS: Final = 96
"""What a sequence must have room for."""
OUT_OF_TIME: Final = "this machine is too slow or too busy: only {} finished in time"
REQUEST: Final = 0
"""The number of every request of a check."""
GREEDY: Final = Sampling(temperature=0, ignore_eos=True)

Course = Generator[float, None, CheckResult]
"""A check that runs: yields its progress from 0.0 to 1.0 between its passes, and returns its result."""


class Clock(NamedTuple):
    """The time in nanoseconds, and how to let some pass while nothing is computed."""

    now_ns: Callable[[], int]
    spend_ns: Callable[[int], None]


def _spin(duration_ns: int) -> None:
    """A sleep would be too coarse."""
    end_ns = time.perf_counter_ns() + duration_ns
    while time.perf_counter_ns() < end_ns:
        pass


REAL_CLOCK: Final = Clock(time.perf_counter_ns, _spin)


class Deadline(NamedTuple):
    """The time that a check may take."""

    clock: Clock
    began_ns: int
    limit_ns: int

    @property
    def part(self) -> float:
        """How much of it has passed; 1.0 and more when it is over."""
        return (self.clock.now_ns() - self.began_ns) / self.limit_ns

    @property
    def is_over(self) -> bool:
        return self.part >= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to check. `seed` is secret and new each time; `adapters` are paths."""

    seed: str
    quick: bool
    most_pass_tokens: int
    adapters: Sequence[str] = ()

    def random(self, *names: object) -> Random:
        """Random numbers that depend only on the seed and these names."""
        return Random("/".join([self.seed, *map(str, names)]))


class Stage:
    """The sequences of a Compute, all empty at first and at the end."""

    def __init__(self, compute: Compute, plan: Plan, clock: Clock = REAL_CLOCK) -> None:
        self.compute = compute
        self.plan = plan
        self.clock = clock
        self.slots = compute.info.slots
        size = compute.info.vocabulary
        is_large = size > 2 * FIRST_ORDINARY_TOKEN
        self._ordinary = range(FIRST_ORDINARY_TOKEN, min(LAST_ORDINARY_TOKEN, size)) if is_large else PRINTABLE_BYTES
        self.has_large_vocabulary = is_large
        self._computed: dict[int, int] = {}  # tokens in each bound or parked sequence
        self._parked: dict[int, int] = {}  # the numbers of parked prefixes, by sequence
        self._prefixes = 0  # so far
        self._stored: dict[int, tuple[Kept, int]] = {}  # prefixes outside, by a name of the check's own, with tokens
        self._kept: dict[int, tuple[Swapped, int]] = {}  # states, by a name of the check's own, with their tokens

    def deadline(self, limit_s: float) -> Deadline:
        """Begin the time of a check."""
        return Deadline(self.clock, self.clock.now_ns(), int(limit_s * 1e9))

    def tokens(self, random: Random, count: int) -> list[int]:
        """Ordinary tokens, never the same twice in a row."""
        found: list[int] = []
        while len(found) < count:
            token = random.choice(self._ordinary)
            if not found or token != found[-1]:
                found.append(token)
        return found

    def usable_adapters(self) -> list[str]:
        """Those of the plan that fit the model. Sequence 0 must be empty."""
        usable: list[str] = []
        for adapter in self.plan.adapters:
            try:
                self.bind(0, GREEDY, [], adapter)
            except RequestRejected:
                continue
            self.clear(0)
            usable.append(adapter)
        return usable

    # ---- sequences ------------------------------------------------------------------------------------------

    def free(self) -> list[int]:
        """Sequences that are neither bound nor parked."""
        return [sequence for sequence in range(self.slots) if sequence not in self._computed]

    def computed(self, sequence: int) -> int:
        """Tokens that a bound or parked sequence holds."""
        return self._computed[sequence]

    def bind(self, sequence: int, sampling: Sampling, prompt: list[int], adapter: str = "") -> None:
        """Raises RequestRejected."""
        self.compute.bind(sequence, sampling, prompt, [], adapter, REQUEST)
        self._computed[sequence] = 0

    def feed(self, tokens: dict[int, list[int]]) -> dict[int, Sampled]:
        """One pass that computes these tokens, by sequence. Returns the token that each chooses next."""
        return self.run(tokens).sampled

    def prefill(self, sequence: int, tokens: list[int]) -> Sampled:
        """Compute tokens of one sequence, in as many passes as it takes. Returns the token after them."""
        most = self.plan.most_pass_tokens
        for start in range(0, len(tokens), most):
            sampled = self.feed({sequence: tokens[start : start + most]})
        return sampled[sequence]

    def run(self, tokens: dict[int, list[int]]) -> PassResult:
        """Like `feed`, with the time that it took."""
        chunks = [
            Chunk(sequence, self._computed[sequence], tokens[sequence], True, REQUEST) for sequence in sorted(tokens)
        ]
        result = self.compute.run(chunks)
        for chunk in chunks:
            self._computed[chunk.sequence] += len(chunk.tokens)
        return result

    def move(self, source: int, target: int) -> None:
        self.compute.move(source, target)
        self._computed[target] = self._computed.pop(source)
        if source in self._parked:
            self._parked[target] = self._parked.pop(source)

    def clear(self, sequence: int) -> None:
        self.compute.clear(sequence)
        self._computed.pop(sequence, None)
        self._parked.pop(sequence, None)

    def swap_out(self, sequence: int, name: int) -> None:
        """Keep the state of a sequence under this name. The sequence is then empty."""
        state = self.compute.swap_out(sequence, MOST_STATE_BYTES)
        self._kept[name] = state, self._computed.pop(sequence)

    def swap_in(self, sequence: int, name: int) -> bool:
        """Put a kept state on an empty sequence. False if the sequence's tokens must be computed again."""
        state, computed = self._kept.pop(name)
        self._computed[sequence] = 0
        is_whole = self.compute.swap_in(sequence, state)
        self._computed[sequence] = computed if is_whole else 0
        return is_whole

    def drop(self, name: int) -> None:
        """Free a kept state, as for a request that ends while it is swapped out, or a stored prefix."""
        self.forget(name)
        if name in self._kept:
            state, _ = self._kept.pop(name)
            state.free()

    # ---- prefixes -------------------------------------------------------------------------------------------

    def park(self, sequence: int) -> None:
        """End a request and leave what it computed as a prefix."""
        self._prefixes += 1
        self.compute.park(sequence, REQUEST, self._prefixes)
        self._parked[sequence] = self._prefixes

    def resume(self, sequence: int, sampling: Sampling, tokens: int, adapter: str = "") -> bool:
        """Begin a request with the first tokens of a parked prefix. False if it begins with none, because the model
        cannot go back so far."""
        prefix = self._parked.pop(sequence)
        is_cut = self.compute.cut(sequence, prefix, tokens)
        self.compute.bind(sequence, sampling, [], [], adapter, REQUEST, prefix if is_cut else 0)
        self._computed[sequence] = tokens if is_cut else 0
        return is_cut

    def copy(self, source: int, target: int) -> bool:
        """Park a copy of a bound or parked sequence in an empty one. False if there is no room."""
        self._prefixes += 1
        is_parked = source in self._parked
        owner = Owner("prefix", self._parked[source]) if is_parked else Owner("request", REQUEST)
        if is_copied := self.compute.copy(source, target, owner, self._prefixes, self._computed[source]):
            self._computed[target], self._parked[target] = self._computed[source], self._prefixes
        return is_copied

    def store(self, sequence: int, name: int) -> bool:
        """Keep a parked prefix outside, under this name, and clear its sequence. False if there was no room."""
        prefix = self._parked[sequence]
        kept = self.compute.save(sequence, Owner("prefix", prefix), prefix, MOST_STATE_BYTES)
        if kept is not None:
            self._stored[name] = kept, self._computed[sequence]
        self.clear(sequence)
        return kept is not None

    def fetch(self, sequence: int, name: int) -> bool:
        """Park a stored prefix in an empty sequence again, and drop what was stored. False if it is not there."""
        if name not in self._stored:
            return False
        kept, computed = self._stored[name]
        if is_restored := self.compute.restore(sequence, kept):
            self._computed[sequence], self._parked[sequence] = computed, kept.prefix
        self.forget(name)
        return is_restored

    def forget(self, name: int) -> None:
        """Drop a stored prefix, if it is there."""
        if name in self._stored:
            kept, _ = self._stored.pop(name)
            kept.free()

    def clear_all(self) -> None:
        """Release everything, wherever a check was. Raises what the Compute raises."""
        self.compute.on_logits = None
        while self._stored:
            self.forget(next(iter(self._stored)))
        while self._kept:
            self.drop(next(iter(self._kept)))
        while self._computed:
            self.clear(next(iter(self._computed)))
