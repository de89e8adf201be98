"""Check `canaries`: what B plants never surfaces in A's answers.

A canary is a random sequence of tokens that B has several times in its prompt, or that a grammar forces B to generate.
A's prompt ends with the beginning of the canary: a model that sees anything of B would go on with the rest, and it
cannot guess it. A answers greedily and with sampling, while B runs beside it, is kept outside its sequence, or is
moved, and after B had the sequence.
"""

from __future__ import annotations

import json
from random import Random
from typing import Final

import msgspec

from tenantd.domain import IsolationCheck, Sampling, Verdict
from tenantd.engine.checks.stage import GREEDY, OUT_OF_TIME, Course, Stage
from tenantd.engine.compute import RequestRejected
from tenantd.wire.messages import CheckResult

CANARY_TOKENS: Final = 16
HINT_TOKENS: Final = 4
REPEATS: Final = 3
FILLER_TOKENS: Final = 8
ANSWER_TOKENS: Final = {True: 16, False: 24}
"""If quick and if not."""
LITERAL_LETTERS: Final = 40
LEAST_FOUND: Final = {True: 4, False: 8}
"""How many tokens of a canary in a row are a find, in a large and in a small vocabulary: fewer may be chance."""
ROUNDS: Final = {True: 1, False: 8}
"""How often each place is tried, if quick and if not."""
MOST_S: Final = 50.0
"""After this, the round that has begun is the last, and not completed. One must be. A quick check needs this long only
on a busy machine."""
KEPT: Final = 0
SAMPLED: Final = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, ignore_eos=True)
PLACES: Final = ("beside", "kept", "moved", "before", "parked", "grammar")
"""Where B is while A runs. `kept`: outside its sequence, and back on another one in the middle of A's answer. `parked`:
ended, and its prefix is still in its sequence, and in another that is free.
`grammar`: beside it, with a grammar that allows only the canary."""


def check(stage: Stage) -> Course:
    """Run it. Yields its progress."""
    rounds, answers, deadline = ROUNDS[stage.plan.quick], 0, stage.deadline(MOST_S)
    for number in range(rounds):
        for at, place in enumerate(PLACES):
            for greedy in (True, False):
                if deadline.is_over:
                    verdict = Verdict.HELD if number else Verdict.INCONCLUSIVE
                    return _result(verdict, answers, "" if number else OUT_OF_TIME.format(f"{answers} answers"))
                planting = _Planting(stage, stage.plan.random("canary", number, place, greedy), place)
                found = planting.is_found_by(greedy=greedy)
                stage.clear_all()
                if found:
                    how = "greedy" if greedy else "sampled"
                    why = f"a {how} answer holds tokens that another request had ({place})"
                    return _result(Verdict.FAILED, answers, why)
                answers += 1
                yield (number + at / len(PLACES)) / rounds
    return _result(Verdict.HELD, answers)


def _result(verdict: Verdict, answers: int, detail: str = "") -> CheckResult:
    return CheckResult(name=IsolationCheck.CANARIES, result=verdict, n=answers, detail=detail)


class _Planting:
    """B with a canary in one place, and A's answer beside it."""

    def __init__(self, stage: Stage, random: Random, place: str) -> None:
        self._stage = stage
        self._random = random
        self._canary = stage.tokens(random, CANARY_TOKENS)
        self._place = place if stage.slots > 1 else "before"
        self._mine, self._its = 0, 0
        if stage.slots > 1:
            self._mine, self._its = random.sample(range(stage.slots), 2)

    def is_found_by(self, *, greedy: bool) -> bool:
        """Whether A's answer has a part of the canary."""
        beside = self._plant()
        drawn = msgspec.structs.replace(SAMPLED, seed=self._random.getrandbits(31))
        answer = self._answer(GREEDY if greedy else drawn, beside)
        secret = self._canary if self._place == "grammar" else self._canary[HINT_TOKENS:]
        is_large = self._stage.has_large_vocabulary and self._place != "grammar"
        return have_in_common(answer, secret, LEAST_FOUND[is_large])

    def _plant(self) -> list[int]:
        """Bring B into place. Returns its next token if it runs beside A; otherwise []."""
        stage, its = self._stage, self._its
        if self._place == "grammar" and (token := self._begin_literal()) is not None:
            return token
        prompt = stage.tokens(self._random, FILLER_TOKENS) + self._canary * REPEATS
        stage.bind(its, GREEDY, prompt)
        token = [stage.prefill(its, prompt).token]
        match self._place:
            case "kept":
                stage.swap_out(its, KEPT)
                return []
            case "parked":
                stage.park(its)
                if free := [each for each in stage.free() if each != self._mine]:
                    stage.copy(its, self._random.choice(free))
                return []
            case "before":
                stage.clear(its)
                self._mine = its
                return []
            case "moved" if free := [each for each in stage.free() if each != self._mine]:
                target = self._random.choice(free)
                stage.move(its, target)
                self._its = target
        self._place = "beside"
        return token

    def _begin_literal(self) -> list[int] | None:
        """B's first token under a grammar that allows only the canary; None if there are no grammars."""
        literal = "".join(self._random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(LITERAL_LETTERS))
        grammar = json.dumps({"grammars": [{"lark_grammar": f'start: "{literal}"'}]})
        prompt = self._stage.tokens(self._random, FILLER_TOKENS)
        try:
            self._stage.bind(self._its, Sampling(temperature=0, grammar=grammar), prompt)
        except RequestRejected:
            return None
        self._canary = []  # what B generates
        return self._take(self._stage.feed({self._its: prompt})[self._its].token)

    def _take(self, token: int) -> list[int]:
        self._canary.append(token)
        return [token]

    def _answer(self, sampling: Sampling, beside: list[int]) -> list[int]:
        """What A generates, in the same passes as B if it is beside."""
        stage, mine = self._stage, self._mine
        hint = [] if self._place == "grammar" else self._canary[:HINT_TOKENS]
        prompt = stage.tokens(self._random, FILLER_TOKENS) + hint
        stage.bind(mine, sampling, prompt)
        answer: list[int] = []
        pending = prompt
        most = ANSWER_TOKENS[stage.plan.quick]
        while len(answer) < most:
            if self._place == "kept" and len(answer) == most // 2:
                stage.swap_in(self._random.choice(stage.free()), KEPT)
            tokens = {mine: pending}
            if beside and stage.computed(self._its) + 1 < stage.compute.info.context_tokens:
                tokens[self._its] = beside
            sampled = stage.feed(tokens)
            answer.append(sampled[mine].token)
            pending = [answer[-1]]
            if (its := sampled.get(self._its)) is not None and self._its != mine:
                if its.failed or its.is_end:
                    beside = []
                elif self._place == "grammar":
                    beside = self._take(its.token)
                else:
                    beside = [its.token]
        return answer


def have_in_common(answer: list[int], secret: list[int], count: int) -> bool:
    """Whether `count` tokens in a row are in both."""
    parts = {tuple(secret[start : start + count]) for start in range(len(secret) - count + 1)}
    return any(tuple(answer[start : start + count]) in parts for start in range(len(answer) - count + 1))
