"""Check `timing`: the time to A's first token does not tell whether B has sent the same prefix.

In each round three requests are sent in random order: A sends the prefix that B sent in the round before, A sends one
that nobody has sent, and B sends the next one, delayed by 5%. The first two are the test; the last two are a positive
control: if the delay cannot be told from noise, neither could what is looked for, and the check is inconclusive.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tenantd.domain import IsolationCheck, Verdict
from tenantd.engine.checks.permutation import p_value
from tenantd.engine.checks.stage import GREEDY, Course, Deadline, Stage
from tenantd.wire.messages import CheckResult

LEAST_PAIRS: Final = 200
MOST_PAIRS: Final = 800
"""On a noisy machine, rounds are added until the control is certain, up to this many."""
MORE_PAIRS: Final = 100
WARM_UP_PAIRS: Final = 5
PREFIX_TOKENS: Final = {True: 4, False: 48}
"""If quick and if not; fewer if `LEAST_PAIRS` rounds would take longer than `AIM_S`."""
AIM_S: Final = {True: 8.0, False: 35.0}
MOST_S: Final = 125.0
"""For both sets of data, if there are two; more than `LEAST_PAIRS` rounds are made in its first half only. A quick
check needs this long only on a busy machine."""
REQUESTS: Final = 3
"""Of a round."""
DELAY: Final = 0.05
CERTAIN_P: Final = 0.001


@dataclass(slots=True)
class Times:
    """Nanoseconds to A's first token, by round."""

    same: list[int] = field(default_factory=list)
    other: list[int] = field(default_factory=list)
    delayed: list[int] = field(default_factory=list)

    def test_p(self) -> float:
        """Whether the same prefix takes another time than another one."""
        return p_value([a - b for a, b in zip(self.same, self.other, strict=True)], len(self.same))

    def control_p(self) -> float:
        """Whether the delay is seen."""
        return p_value([a - b for a, b in zip(self.delayed, self.other, strict=True)], len(self.same))


def check(stage: Stage) -> Course:
    """Run it. Yields its progress."""
    p, pairs, deadline = 1.0, 0, stage.deadline(MOST_S)
    for attempt in range(2):
        times = yield from _measure(stage, deadline, attempt)
        pairs = len(times.same)
        if pairs < LEAST_PAIRS:
            return _result(Verdict.INCONCLUSIVE, pairs, None, f"only {pairs} of {LEAST_PAIRS} pairs finished in time")
        control_p, p = times.control_p(), times.test_p()
        if control_p >= CERTAIN_P:
            why = f"this machine is too noisy: a delay of {DELAY:.0%} was not seen either (p = {control_p:.2g})"
            return _result(Verdict.INCONCLUSIVE, pairs, p, why)
        if p >= CERTAIN_P:
            return _result(Verdict.HELD, pairs, p)
    ratio = statistics.median(times.same) / statistics.median(times.other)
    why = f"after another tenant sent the same prefix, the first token took {ratio:.3f} of its time"
    return _result(Verdict.FAILED, pairs, p, why)


def _result(verdict: Verdict, pairs: int, p: float | None, detail: str = "") -> CheckResult:
    return CheckResult(name=IsolationCheck.TIMING, result=verdict, n=pairs, p=p, detail=detail)


def _measure(stage: Stage, deadline: Deadline, attempt: int) -> Generator[float, None, Times]:
    """Enough rounds for the control to be certain, or as many as there is time for."""
    random = stage.plan.random("timing", attempt)
    rounds = _Rounds(stage, random, _prefix_tokens(stage, random))
    times, enough, delay_ns = Times(), LEAST_PAIRS, 0
    warm_up = WARM_UP_PAIRS
    while not deadline.is_over:
        rounds.add(times, delay_ns)
        if warm_up:
            warm_up -= 1
            delay_ns = int(DELAY * statistics.median(times.other))
            times = times if warm_up else Times()
        yield (attempt + min(1.0, len(times.same) / enough)) / 2
        if len(times.same) >= enough and not warm_up:
            if enough >= MOST_PAIRS or deadline.part >= 0.5 or times.control_p() < CERTAIN_P:
                break
            enough += MORE_PAIRS
    stage.clear_all()
    return times


def _prefix_tokens(stage: Stage, random: Random) -> int:
    """As long as `LEAST_PAIRS` rounds take no more than `AIM_S`."""
    length = min(PREFIX_TOKENS[stage.plan.quick], stage.plan.most_pass_tokens)
    _first_token(stage, 0, stage.tokens(random, length))
    stage.clear(0)
    took_ns = _first_token(stage, 0, stage.tokens(random, length))
    stage.clear(0)
    affordable_ns = AIM_S[stage.plan.quick] * 1e9 / (REQUESTS * LEAST_PAIRS)
    return max(1, min(length, int(length * affordable_ns / max(1, took_ns))))


class _Rounds:
    """What B has sent last, on which sequence, and whether it is still there."""

    def __init__(self, stage: Stage, random: Random, length: int) -> None:
        self._stage, self._random, self._length = stage, random, length
        self._sequence = random.randrange(stage.slots)
        self._prefix = self._fresh()
        self._stays = False
        _first_token(stage, self._sequence, self._prefix)
        stage.clear(self._sequence)

    def add(self, times: Times, delay_ns: int) -> None:
        """One more round."""
        stage, random, before = self._stage, self._random, self._sequence
        free = stage.free()
        mine = random.choice([each for each in free if each != before] or free)
        its = random.choice([each for each in free if each != mine] or [mine])
        prefix, will_stay = self._fresh(), its != mine and random.random() < 0.5
        for name in random.sample(["same", "other", "delayed"], REQUESTS):
            if name == "delayed":
                times.delayed.append(_first_token(stage, its, prefix, delay_ns))
                if not will_stay:
                    stage.clear(its)
            else:
                sent = self._prefix if name == "same" else self._fresh()
                getattr(times, name).append(_first_token(stage, mine, sent))
                stage.clear(mine)
        if self._stays:
            stage.clear(before)
        self._sequence, self._prefix, self._stays = its, prefix, will_stay

    def _fresh(self) -> list[int]:
        return self._stage.tokens(self._random, self._length)


def _first_token(stage: Stage, sequence: int, prefix: list[int], delay_ns: int = 0) -> int:
    """Nanoseconds from binding a request to its first token. It stays on its sequence."""
    began_ns = stage.clock.now_ns()
    stage.bind(sequence, GREEDY, prefix)
    stage.feed({sequence: prefix})
    if delay_ns:
        stage.clock.spend_ns(delay_ns)
    return stage.clock.now_ns() - began_ns
