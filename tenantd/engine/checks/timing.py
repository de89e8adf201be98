"""Check `timing`: the time to A's first token does not tell whether B has sent the same prefix.

In each round B sends a prefix. Then A sends, in random order, the same prefix, another one that nobody has sent, and a
third one that is delayed by 5%. The first two are the test; the last two are a positive control: if the delay cannot be
told from noise, neither could what is looked for, and the check is inconclusive.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tenantd.domain import IsolationCheck, Verdict
from tenantd.engine.checks.permutation import p_value
from tenantd.engine.checks.stage import GREEDY, Course, Stage
from tenantd.wire.messages import CheckResult

LEAST_PAIRS: Final = 200
MOST_PAIRS: Final = 800
"""On a noisy machine, rounds are added until the control is certain, up to this many."""
MORE_PAIRS: Final = 100
WARM_UP_PAIRS: Final = 5
PREFIX_TOKENS: Final = {True: 4, False: 48}
"""If quick and if not; fewer if `LEAST_PAIRS` of them would take too long."""
TIME_S: Final = {True: 20.0, False: 70.0}
"""For one set of data, of which there may be two."""
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
    p, pairs = 1.0, 0
    for attempt in range(2):
        random = stage.plan.random("timing", attempt)
        times = yield from _measure(stage, random, attempt)
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


def _measure(stage: Stage, random: Random, attempt: int) -> Generator[float, None, Times]:
    """Enough rounds for the control to be certain, or as many as there is time for."""
    deadline = stage.deadline(TIME_S)
    length = _prefix_tokens(stage, random, deadline.limit_ns)
    times, enough, delay_ns = Times(), LEAST_PAIRS, 0
    warm_up = WARM_UP_PAIRS
    while not deadline.is_over:
        _round(stage, random, length, delay_ns, times)
        if warm_up:
            warm_up -= 1
            delay_ns = int(DELAY * statistics.median(times.other))
            times = times if warm_up else Times()
        yield (attempt + min(1.0, len(times.same) / enough)) / 2
        if len(times.same) >= enough and not warm_up:
            if enough >= MOST_PAIRS or times.control_p() < CERTAIN_P:
                break
            enough += MORE_PAIRS
    return times


def _prefix_tokens(stage: Stage, random: Random, limit_ns: int) -> int:
    """As long as `LEAST_PAIRS` rounds take no more than half the time."""
    length = min(PREFIX_TOKENS[stage.plan.quick], stage.plan.most_pass_tokens)
    _first_token(stage, 0, stage.tokens(random, length))
    took_ns = _first_token(stage, 0, stage.tokens(random, length))
    affordable_ns = limit_ns / 2 / (4 * LEAST_PAIRS)
    return max(1, min(length, int(length * affordable_ns / max(1, took_ns))))


def _round(stage: Stage, random: Random, length: int, delay_ns: int, times: Times) -> None:
    prefix = stage.tokens(random, length)
    mine = random.randrange(stage.slots)
    its = random.choice([each for each in range(stage.slots) if each != mine] or [mine])
    stays = its != mine and random.random() < 0.5
    _send(stage, its, prefix)
    if not stays:
        stage.clear(its)
    measured = {
        "same": (prefix, 0),
        "other": (stage.tokens(random, length), 0),
        "delayed": (stage.tokens(random, length), delay_ns),
    }
    for name in random.sample(list(measured), len(measured)):
        getattr(times, name).append(_first_token(stage, mine, *measured[name]))
    if stays:
        stage.clear(its)


def _send(stage: Stage, sequence: int, prefix: list[int]) -> None:
    stage.bind(sequence, GREEDY, prefix)
    stage.feed({sequence: prefix})


def _first_token(stage: Stage, sequence: int, prefix: list[int], delay_ns: int = 0) -> int:
    """Nanoseconds from binding a request to its first token."""
    began_ns = stage.clock.now_ns()
    _send(stage, sequence, prefix)
    if delay_ns:
        stage.clock.spend_ns(delay_ns)
    took_ns = stage.clock.now_ns() - began_ns
    stage.clear(sequence)
    return took_ns
