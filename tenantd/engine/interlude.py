"""A self-check between requests: asked for by the daemon, begun once no request has a sequence, made in short slices.

Between two slices the loop takes commands, so the check can be ended, and the daemon hears of its progress.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator
from typing import Final

from tenantd.engine.checks.stage import Plan
from tenantd.engine.compute import Compute, EngineBroken
from tenantd.engine.selfcheck import SelfCheck
from tenantd.wire.messages import Check, Checked, Checking

PATIENCE_S: Final = 10.0
"""How long running requests may go on before they give up their sequences."""
SLICE_S: Final = 0.2
SEED_BYTES: Final = 16


class Interlude:
    """The check that was asked for, if any. Times are of the loop's clock."""

    def __init__(self, compute: Compute, batch_tokens: int) -> None:
        """`batch_tokens` is the most that a pass may have."""
        self._compute = compute
        self._batch_tokens = batch_tokens
        self._asked: Check | None = None
        self._overdue_s = 0.0
        self._check: SelfCheck | None = None
        self._course: Generator[None, None, None] | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a check waits or runs, so that no request may be bound."""
        return self._asked is not None

    @property
    def has_begun(self) -> bool:
        """Whether a check has sequences."""
        return self._check is not None

    def is_overdue(self, now_s: float) -> bool:
        """Whether a check has waited long enough for running requests."""
        return self.is_asked and not self.has_begun and now_s >= self._overdue_s

    def ask(self, check: Check, now_s: float) -> None:
        """Make this check as soon as no request has a sequence."""
        assert not self.is_asked, "one check at a time"
        self._asked = check
        self._overdue_s = now_s + PATIENCE_S

    def end(self, nonce: int) -> None:
        """End a check early. Raises EngineBroken if its sequences cannot be emptied."""
        if self._asked is not None and self._asked.nonce == nonce:
            self._finish()

    def go_on(self) -> Checking | Checked:
        """Make a slice of the check. When it begins, no request may have a sequence: then it raises EngineBroken."""
        assert self._asked is not None
        if self._check is None or self._course is None:
            self._check = SelfCheck(self._compute, self._plan(self._asked))
            self._course = self._check.run()
        check, nonce = self._check, self._asked.nonce
        began_ns = time.perf_counter_ns()
        for _ in self._course:
            if (busy_ns := time.perf_counter_ns() - began_ns) >= SLICE_S * 1e9:
                return Checking(
                    nonce=nonce,
                    check=check.current,
                    progress=check.progress,
                    results=[*check.results],
                    busy_micros=busy_ns // 1000,
                )
        busy_micros = (time.perf_counter_ns() - began_ns) // 1000
        return Checked(nonce=nonce, results=[*check.results], busy_micros=busy_micros)

    def _plan(self, asked: Check) -> Plan:
        return Plan(
            seed=secrets.token_hex(SEED_BYTES),
            quick=asked.quick,
            most_pass_tokens=self._batch_tokens,
            adapters=tuple(asked.adapters),
        )

    def forget(self) -> None:
        """Forget a check whose `Checked` was sent. Raises EngineBroken if the engine cannot be used after it."""
        self._finish()

    def _finish(self) -> None:
        check, course = self._check, self._course
        self._asked = self._check = self._course = None
        if course is not None:
            course.close()
        if check is not None and check.is_broken:
            raise EngineBroken("it cannot be used after a check of its isolation")
