"""Check `released`: a sequence whose request was released, swapped out or cancelled holds nothing.

B has a sequence and leaves it in one of several ways. Then the Compute must say that it is empty, and A gets the
sequence: its logits must be the same to the last bit whatever B had there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Final

from tenantd.domain import IsolationCheck, Verdict
from tenantd.engine.checks.stage import GREEDY, OUT_OF_TIME, Course, Stage
from tenantd.wire.messages import CheckResult

PROMPT_TOKENS: Final = {True: 24, False: 48}
"""Of B, if quick and if not; more than A has, so that what is left could be before, at and behind A's tokens."""
DECODED: Final = 4
OWN_TOKENS: Final = {True: (12, 1, 1), False: (24, 1, 1)}
"""Of A's passes, if quick and if not."""
ROUNDS: Final = {True: 1, False: 6}
"""How often each way is tried, if quick and if not."""
MOST_S: Final = 50.0
"""After this, the round that has begun is the last, and not completed. One must be. A quick check needs this long only
on a busy machine."""
CONTENTS: Final = (0, 0, 0, 1, 2)
"""What B has in each try of a round. The first brings every way to the same start; see sameness.py."""
KEPT: Final = 0
"""The name of B's state outside its sequence."""

Leave = Callable[[Stage, int, int], None]
"""How B leaves its sequence; the last argument is another sequence, or the same if there is only one."""


def _cancelled(stage: Stage, sequence: int, other: int) -> None:
    stage.clear(sequence)


def _ended(stage: Stage, sequence: int, other: int) -> None:
    for token in range(DECODED):
        stage.feed({sequence: [FILLER + token]})
    stage.clear(sequence)


def _swapped_out(stage: Stage, sequence: int, other: int) -> None:
    """Its state is still kept while A runs."""
    stage.swap_out(sequence, KEPT)


def _dropped(stage: Stage, sequence: int, other: int) -> None:
    stage.swap_out(sequence, KEPT)
    stage.drop(KEPT)


def _swapped_back(stage: Stage, sequence: int, other: int) -> None:
    stage.swap_out(sequence, KEPT)
    stage.swap_in(other, KEPT)
    if other == sequence:
        stage.clear(other)


def _moved(stage: Stage, sequence: int, other: int) -> None:
    if other == sequence:
        stage.clear(sequence)
    else:
        stage.move(sequence, other)


def _stored(stage: Stage, sequence: int, other: int) -> None:
    """It leaves a prefix, which is still kept outside while A runs."""
    stage.park(sequence)
    stage.store(sequence, KEPT)


def _copied(stage: Stage, sequence: int, other: int) -> None:
    """It leaves a prefix, of which there is still a copy beside A."""
    stage.park(sequence)
    if other != sequence:
        stage.copy(sequence, other)
    stage.clear(sequence)


FILLER: Final = 40
"""A token of every vocabulary."""
WAYS: Final[dict[str, Leave]] = {
    "was cancelled": _cancelled,
    "ended": _ended,
    "was swapped out": _swapped_out,
    "was swapped out and ended": _dropped,
    "was swapped out and in elsewhere": _swapped_back,
    "was moved": _moved,
    "left a prefix outside": _stored,
    "left a prefix that was copied": _copied,
}


def check(stage: Stage) -> Course:
    """Run it. Yields its progress."""
    rounds, compared, deadline = ROUNDS[stage.plan.quick], 0, stage.deadline(MOST_S)
    for number in range(rounds):
        for at, (name, leave) in enumerate(WAYS.items()):
            if deadline.is_over:
                verdict = Verdict.HELD if number else Verdict.INCONCLUSIVE
                return _result(verdict, compared, "" if number else OUT_OF_TIME.format(f"{at} of {len(WAYS)} cases"))
            rows: list[list[bytes]] = []
            for content in CONTENTS:
                found = _follow(stage, leave, stage.plan.random("released", number, name), content)
                if found is None:
                    return _result(Verdict.FAILED, compared, f"something is left after a request that {name}")
                rows.append(found)
                yield (number + at / len(WAYS)) / rounds
            _, reference, again, *others = rows
            if reference != again:
                return _result(Verdict.INCONCLUSIVE, compared, "the engine computes other logits for the same contents")
            if any(other != reference for other in others):
                return _result(Verdict.FAILED, compared, f"logits depend on an earlier request that {name}")
            compared += sum(map(len, others))
    return _result(Verdict.HELD, compared)


def _follow(stage: Stage, leave: Leave, random: Random, content: int) -> list[bytes] | None:
    """Digests of A's logits in the sequence that B has left; None if the Compute is not empty when it should be."""
    sequence = random.randrange(stage.slots)
    other = random.choice([each for each in range(stage.slots) if each != sequence] or [sequence])
    text = stage.plan.random("text", random.random(), content)
    own = stage.plan.random("text", random.random())
    stage.bind(sequence, GREEDY, [])
    stage.prefill(sequence, stage.tokens(text, PROMPT_TOKENS[stage.plan.quick]))
    leave(stage, sequence, other)
    if len(stage.free()) == stage.slots and not stage.compute.is_empty():
        return None
    rows: list[bytes] = []
    stage.compute.on_logits = lambda _, logits: rows.append(hashlib.blake2b(logits, digest_size=16).digest())
    stage.bind(sequence, GREEDY, [])
    for count in OWN_TOKENS[stage.plan.quick]:
        stage.feed({sequence: stage.tokens(own, count)})
    stage.clear_all()
    return rows if stage.compute.is_empty() else None


def _result(verdict: Verdict, compared: int, detail: str = "") -> CheckResult:
    return CheckResult(name=IsolationCheck.RELEASED, result=verdict, n=compared, detail=detail)
