"""Finds the running request that computes what another one begins with as well. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tenantd.engine.jobs import Job
from tenantd.engine.kv.prefixes import BLOCK_TOKENS, common_tokens
from tenantd.wire.messages import Submit

LEAST_APART: Final = 4 * BLOCK_TOKENS
"""Between two checkpoints of a prompt: a shorter stretch is computed in the time that a copy takes."""
MOST_CHECKPOINTS: Final = 16
"""Of one prompt: each copies all that is before it, while everybody waits."""


class Lead(NamedTuple):
    """A running request, and how many first tokens it has in common with another."""

    job: Job
    tokens: int

    @property
    def is_ready(self) -> bool:
        """Whether they are computed."""
        return self.job.computed >= self.tokens


def best_lead(job: Job, active: Iterable[Job]) -> Lead | None:
    """The running request with the same key that has most in common with this one; of several, the one that is
    furthest. Those that wait for others themselves lead nobody."""
    best: tuple[int, int] = (0, 0)
    leader: Job | None = None
    for other in active:
        if other is job or other.key != job.key or other.leader is not None:
            continue
        if (score := (_common_blocks(job.chain, other.chain), other.computed)) > best:
            best, leader = score, other
    if leader is None or not best[0]:
        return None
    tokens = common_tokens(job.tokens, leader.tokens, best[0], len(job.tokens) - 1)
    return Lead(leader, tokens) if tokens else None


def _common_blocks(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many first blocks are the same: each hash covers all before it."""
    low, high = 0, min(len(ours), len(theirs))
    while low < high:
        middle = (low + high + 1) // 2
        if ours[middle - 1] == theirs[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def checkpoints(submit: Submit, begins: int, every_tokens: int) -> list[int]:
    """Lengths, ascending, at which a prompt's state is worth a copy because it cannot be cut to them later.

    The end of the system prompt, the ends of the latest turns, and every so many tokens, or a multiple that keeps them
    to MOST_CHECKPOINTS in all; those that are not before `begins`, where the request starts, and not closer together
    than LEAST_APART.
    """
    end, most_turns = len(submit.prompt), MOST_CHECKPOINTS // 2
    chosen: list[int] = []
    for tokens in (submit.hidden_tokens, *reversed(submit.marks)):
        if len(chosen) > most_turns:
            break
        _choose(chosen, tokens, begins, end)
    if every_tokens:
        step = every_tokens * -(-end // (every_tokens * most_turns))
        for tokens in range(step, end, step):
            _choose(chosen, tokens, begins, end)
    return chosen


def _choose(chosen: list[int], tokens: int, begins: int, end: int) -> None:
    if max(begins, BLOCK_TOKENS - 1) < tokens < end:
        at = bisect_right(chosen, tokens)
        if all(abs(tokens - near) >= LEAST_APART for near in chosen[max(0, at - 1) : at + 1]):
            chosen.insert(at, tokens)
