"""Breaks one line in a copy of the sources, and asks the test that has to notice."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from tests.support.copies import Copy

AT_ONCE: Final = 2
IN_EVERY_RUN: Final = ("identity", "slots", "guard", "scopes", "audit")
"""One mutation of each of these areas is tried by `make test`."""
CAUGHT, SURVIVED = 1, 0
"""Exit codes of pytest. Any other means that the test did not run."""


class Mutation(NamedTuple):
    """One line that matters to isolation, broken."""

    area: str
    says: str  # what goes wrong
    path: str
    old: str  # in one place of the file
    new: str
    test: str


class Trials:
    """Copies of the sources in `folder`, one for each trial at the same time."""

    def __init__(self, folder: Path) -> None:
        self._copies: SimpleQueue[Copy] = SimpleQueue()
        for i in range(AT_ONCE):
            self._copies.put(Copy(folder / str(i), is_compiled=True))

    def unmutated(self, tests: Iterable[str]) -> str:
        """Which of these tests fails as it is; "" if none."""
        apart = sorted(set(tests))  # those of a file stay together
        size = -(-len(apart) // AT_ONCE)
        trials = [functools.partial(self._unmutated, apart[i : i + size]) for i in range(0, len(apart), size)]
        return "\n".join(filter(None, self._all(trials)))

    def survivors(self, mutations: Iterable[Mutation]) -> list[str]:
        """Those that nobody notices, or that cannot be tried."""
        return list(filter(None, self._all([functools.partial(self._survives, mutation) for mutation in mutations])))

    def _all(self, trials: list[Callable[[], str]]) -> list[str]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(lambda trial: trial(), trials))

    def _unmutated(self, tests: list[str]) -> str:
        copy = self._copies.get()
        try:
            code, printed = _pytest(copy, *tests)
        finally:
            self._copies.put(copy)
        return "" if code == SURVIVED else f"fails without any mutation:\n{printed}"

    def _survives(self, mutation: Mutation) -> str:
        copy = self._copies.get()
        path = copy.root / mutation.path
        before = path.read_text("utf-8")
        try:
            copy.edit(mutation.path, mutation.old, mutation.new)
            code, printed = _pytest(copy, mutation.test)
        except AssertionError as e:
            return f"{mutation.says}: {e}"
        finally:
            path.write_text(before, "utf-8")
            self._copies.put(copy)
        if code == CAUGHT:
            return ""
        return f"{mutation.says}: {mutation.test} " + (
            "passes all the same" if code == SURVIVED else f"does not run:\n{printed}"
        )


def _pytest(copy: Copy, *tests: str) -> tuple[int, str]:
    """Exit code and output, without any settings of this run."""
    return copy.outcome("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "600", *tests)


def table(mutations: Iterable[Mutation]) -> str:
    """For docs/isolation.md."""
    rows = [f"| {m.area} | {m.says} | `{m.path}` | `{m.test}` |" for m in mutations]
    return "\n".join(["| area | the line is broken so that | in | caught by |", "|---|---|---|---|", *rows])


def chosen(mutations: list[Mutation]) -> list[Mutation]:
    """The first of each of five areas, or what TENANTD_MUTATIONS says: `all`, an area, or a word of what goes wrong."""
    word = os.environ.get("TENANTD_MUTATIONS", "")
    if word:
        return [mutation for mutation in mutations if word in ("all", mutation.area) or word in mutation.says]
    first = {mutation.area: mutation for mutation in reversed(mutations)}
    return [first[area] for area in IN_EVERY_RUN]
