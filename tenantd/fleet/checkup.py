"""The self-check of one engine, as the daemon sees it: asked for, in progress, answered or lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from tenantd.domain import IsolationCheck, Verdict
from tenantd.wire.messages import Checked, Checking, CheckResult

IN_ENGINE = tuple(name for name in IsolationCheck if name is not IsolationCheck.IDENTITY)
"""The checks that an engine makes, in its order."""


class Checkup:
    """At most one check at a time. While one is in progress, no request is sent to the engine."""

    def __init__(self) -> None:
        self._nonces = itertools.count(1)
        self._nonce = 0
        self._last: Checking | None = None  # what was heard last of this one
        self._answer: asyncio.Future[list[CheckResult]] | None = None

    @property
    def is_on(self) -> bool:
        """Whether one is in progress."""
        return self._answer is not None

    @property
    def has_begun(self) -> bool:
        """Whether the engine checks, and runs no request."""
        return self._last is not None

    @property
    def progress(self) -> float:
        """From 0.0 to 1.0."""
        return 0.0 if self._last is None else self._last.progress

    @property
    def doing(self) -> str:
        """What it does, for people."""
        if self._last is None:
            return "isolation will be checked once running requests have made way"
        return f"isolation is being checked: {self._last.check}"

    def begin(self) -> tuple[int, asyncio.Future[list[CheckResult]]]:
        """A new one: its nonce, and its results once they are there. `finish` ends it."""
        assert not self.is_on, "one check at a time"
        self._nonce = next(self._nonces)
        self._answer = asyncio.get_running_loop().create_future()
        return self._nonce, self._answer

    def hear(self, message: Checking | Checked) -> None:
        """Note what the engine says. Words about an earlier check are nothing."""
        if message.nonce != self._nonce or self._answer is None or self._answer.done():
            return
        if isinstance(message, Checking):
            self._last = message
        else:
            self._answer.set_result(message.results)

    def lose(self, reason: str) -> None:
        """No more is heard of it, for this reason. What is not answered is inconclusive."""
        if self._answer is None or self._answer.done():
            return
        found = [] if self._last is None else self._last.results
        self._answer.set_result([*found, *_lost(IN_ENGINE[len(found) :], reason)])

    def finish(self) -> None:
        """It is over, answered or not."""
        self._answer = self._last = None


def _lost(names: Sequence[IsolationCheck], reason: str) -> list[CheckResult]:
    whys = [reason, *["not checked any more"] * (len(names) - 1)]
    return [
        CheckResult(name=name, result=Verdict.INCONCLUSIVE, n=0, detail=why)
        for name, why in zip(names, whys, strict=False)
    ]
