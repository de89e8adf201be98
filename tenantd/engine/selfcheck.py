"""Checks the isolation between sequences of a Compute: others' contents, left-overs and times must not be seen.

It computes requests of its own, which belong to nobody, on empty sequences. Nothing else may use the Compute meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from tenantd.domain import IsolationCheck, Verdict
from tenantd.engine.checks import planted, released, texts, timing
from tenantd.engine.checks.stage import LEAST_CONTEXT_TOKENS, REAL_CLOCK, Clock, Course, Plan, Stage
from tenantd.engine.compute import Compute, EngineBroken, RequestRejected
from tenantd.wire.messages import CheckResult

CHECKS: Final[dict[IsolationCheck, Callable[[Stage], Course]]] = {
    IsolationCheck.LOGITS: texts.check,  # of requests that generate, and vectors of texts
    IsolationCheck.CANARIES: planted.check,
    IsolationCheck.RELEASED: released.check,
    IsolationCheck.TIMING: timing.check,
}


class SelfCheck:
    """All checks, one after the other. `results` are those so far, `current` is the check that runs, `progress` is that
    of all from 0.0 to 1.0. `is_broken`: the Compute can no longer be used."""

    def __init__(self, compute: Compute, plan: Plan, clock: Clock = REAL_CLOCK) -> None:
        """Raises EngineBroken if something uses the sequences."""
        if not compute.is_empty():
            raise EngineBroken("a check of isolation began while a sequence was in use")
        self.results: list[CheckResult] = []
        self.current = IsolationCheck.LOGITS
        self.progress = 0.0
        self.is_broken = False
        self._left = ""  # what could not be cleaned up
        self._compute = compute
        self._stage = Stage(compute, plan, clock)

    def run(self) -> Generator[None, None, None]:
        """Run all checks, with a pause after every few passes. Every sequence is empty at the end, also if it is closed
        early, unless `is_broken`."""
        for number, (name, check) in enumerate(CHECKS.items()):
            self.current = name
            if (obstacle := self._obstacle(name)) is not None:
                self.results.append(obstacle)
                continue
            try:
                for part in self._course(name, check):
                    self.progress = max(self.progress, (number + part) / len(CHECKS))
                    yield
            finally:
                self._clean_up()
        self._blame_released()

    def _obstacle(self, name: IsolationCheck) -> CheckResult | None:
        """The result of a check that cannot be made; None if it can."""
        if self.is_broken:
            return _not_made(name, Verdict.INCONCLUSIVE, "not checked, because the engine must be restarted")
        if self._compute.info.context_tokens < LEAST_CONTEXT_TOKENS:
            why = f"not checked: it needs slots of {LEAST_CONTEXT_TOKENS} tokens (engine.context_tokens)"
            return _not_made(name, Verdict.INCONCLUSIVE, why)
        return None

    def _course(self, name: IsolationCheck, check: Callable[[Stage], Course]) -> Generator[float, None, None]:
        try:
            result = yield from check(self._stage)
        except (EngineBroken, AssertionError) as e:
            self.is_broken = True
            result = _not_made(name, Verdict.FAILED, f"the engine's own checks stopped it: {e}")
        except RequestRejected as e:
            result = _not_made(name, Verdict.INCONCLUSIVE, f"the engine refused a request: {e}")
        self.results.append(result)

    def _clean_up(self) -> None:
        """Empty all sequences."""
        if self.is_broken:
            return
        try:
            self._stage.clear_all()
            if not self._compute.is_empty():
                self._left = "something is left when all requests have ended"
        except (EngineBroken, AssertionError) as e:
            self._left = f"the engine could not be emptied: {e}"
        self.is_broken = bool(self._left)

    def _blame_released(self) -> None:
        """What is left after any check is a matter of `released`."""
        if self._left:
            failed = _not_made(IsolationCheck.RELEASED, Verdict.FAILED, self._left)
            self.results = [failed if result.name is failed.name else result for result in self.results]


def _not_made(name: IsolationCheck, verdict: Verdict, why: str) -> CheckResult:
    return CheckResult(name=name, result=verdict, n=0, detail=why)
