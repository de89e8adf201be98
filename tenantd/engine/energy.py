"""Whose energy it is that was measured, in whole millijoules. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LATELY_MICROS: Final = 1_000_000
"""Of engine time, after which a measurement counts half in what engine time cost lately."""


class EnergyShares:
    """Engine time by request since the last reading, and since the one before that, which is on its way.

    The energy between two readings is divided by engine time. The part of what is nobody's time, or of requests that
    ended before the energy was known, is not told: the latter got what `leave` said.
    """

    def __init__(self) -> None:
        self._open: dict[int, int] = {}
        self._open_micros = 0
        self._cut: dict[int, int] = {}
        self._cut_micros = 0
        self._lately_millijoules = self._lately_micros = 0.0

    def worked(self, micros: Iterable[tuple[int, int]], busy_micros: int) -> None:
        """A step took engine time, in all, and of each request."""
        for request, took in micros:
            self._open[request] = self._open.get(request, 0) + took
        self._open_micros += busy_micros

    def cut(self) -> None:
        """A reading is made now."""
        self._cut, self._open = self._open, {}
        self._cut_micros, self._open_micros = self._open_micros, 0

    def measured(self, millijoules: int) -> dict[int, int]:
        """This much was used between the reading that `cut` announced and the one before it. Returns whose it is."""
        cut, total_micros = self._cut, self._cut_micros
        self._cut, self._cut_micros = {}, 0
        if not total_micros:
            return {}
        half = 0.5 ** (total_micros / LATELY_MICROS)
        self._lately_millijoules = self._lately_millijoules * half + millijoules
        self._lately_micros = self._lately_micros * half + total_micros
        shares: dict[int, int] = {}
        micros = given = 0
        for request, took in cut.items():
            micros += took
            share = millijoules * micros // total_micros - given
            given += share
            if share:
                shares[request] = share
        return shares

    def miss(self) -> None:
        """What was used until the reading that `cut` announced is not known."""
        self._cut, self._cut_micros = {}, 0

    def leave(self, request: int) -> int:
        """A request has ended. Returns what it used since the last reading, by what engine time cost lately."""
        micros = self._open.pop(request, 0) + self._cut.pop(request, 0)
        return round(micros * self._lately_millijoules / self._lately_micros) if self._lately_micros else 0
