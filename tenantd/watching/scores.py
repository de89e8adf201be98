"""Whether a window of a tenant's requests is an anomaly, and why, in words. Pure.

The score is a weighted sum of the signals' standard deviations. Weights and threshold are frozen by
`benchmarks/anomalies.py` in frozen.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tenantd.events import Deviation, Signal
from tenantd.watching import habits
from tenantd.watching.habits import SIGNALS, Row

FROZEN: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("frozen.json").read_text("utf-8"))
WEIGHTS: Final = np.array([FROZEN["weights"][signal] for signal in SIGNALS])
THRESHOLD: Final = float(FROZEN["threshold"])
MOST: Final = 6.0
"""No signal counts more standard deviations than this."""
BOTH_WAYS: Final = np.array([signal in (Signal.DISTINCT, Signal.OUTPUT) for signal in SIGNALS])
"""Whether less than usual is as remarkable as more."""
_LEAST_WEIGHT: Final = 0.15
"""A signal with a smaller share of the score is not named."""


class Anomaly(NamedTuple):
    """A window whose score is above the threshold."""

    requests: int
    score: float
    deviations: tuple[Deviation, ...]


def surprise(deviations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard deviations in the direction that matters, 0 to `MOST`."""
    return np.clip(np.where(BOTH_WAYS, np.abs(deviations), deviations), 0.0, MOST)


def judge(row: Row, threshold: float = THRESHOLD) -> Anomaly | None:
    """The anomaly in a tenant's window; None if there is none, or too little is known."""
    if not habits.is_known(row):
        return None
    measures = habits.measure(row)
    parts = WEIGHTS * surprise(habits.deviations(row, measures))
    score = float(parts.sum())
    if score < threshold:
        return None
    strongest = np.argsort(-parts)
    found = tuple(
        Deviation(
            signal=SIGNALS[i],
            value=_natural(SIGNALS[i], float(measures.values[i])),
            usual=_natural(SIGNALS[i], float(row["mean"][i])),
            weight=round(float(parts[i]), 3),
        )
        for i in strongest
        if parts[i] >= _LEAST_WEIGHT * score
    )
    return Anomaly(int(row["panes"]["requests"].sum()), round(score, 3), found)


def _natural(signal: Signal, value: float) -> float:
    """Out of its logarithm, and with few digits."""
    if signal in (Signal.VOLUME, Signal.COVERAGE):
        value = math.expm1(value)
    elif signal is Signal.OUTPUT:
        value = math.exp(value)
    return float(f"{value:.3g}")


def explain(deviations: Iterable[Deviation]) -> list[str]:
    """What is unusual, for an administrator, the strongest first."""
    return [_WORDS[one.signal](one.value, one.usual) for one in deviations]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


_WORDS: Final[dict[Signal, Any]] = {
    Signal.VOLUME: lambda value, usual: f"{value:.0f} requests (usually {usual:.0f})",
    Signal.DISTINCT: lambda value, usual: f"{_percent(value)} of the prompts are new (usually {_percent(usual)})",
    Signal.SWEEP: lambda value, usual: (
        f"{_percent(value)} of the prompts are variants of a recent one (usually {_percent(usual)})"
    ),
    Signal.LOGPROBS: lambda value, usual: (
        f"{_percent(value)} of the requests ask for logprobs or bias logits (usually {_percent(usual)})"
    ),
    Signal.OUTPUT: lambda value, usual: f"{value:.2g} output tokens per prompt token (usually {usual:.2g})",
    Signal.COVERAGE: lambda value, usual: f"about {value:.0f} different tokens in the prompts (usually {usual:.0f})",
    Signal.NOVELTY: lambda value, usual: (
        f"{_percent(value)} of these tokens were not used before (usually {_percent(usual)})"
    ),
    Signal.SHIFT: lambda value, usual: (
        f"the prompts are {value / max(usual, 0.01):.1f} times as far from those of the past as usual"
    ),
}
