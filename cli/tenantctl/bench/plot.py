"""Plots accumulated service of each tenant over time, and times to first token. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tenantctl.bench.measurement import Measurement
from tenantctl.bench.observed import Outcome, Record
from tenantd.errors import InvalidRequest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS: Final = 400
WIDE_RANGE: Final = 20
"""Waits that differ by more than this factor get a logarithmic axis."""
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
"""Distinguishable for colour-blind people (Okabe and Ito)."""


def require_matplotlib() -> None:
    """Raises InvalidRequest."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InvalidRequest("plots need matplotlib; in tenantd's source folder, run: pip install '.[bench]'") from None


def write_png(path: Path, measurement: Measurement) -> None:
    """One run: service above, first tokens below. Raises OSError."""
    figure = new_figure(9, 7)
    above, below = figure.subplots(2, 1, sharex=True)
    suite = measurement.plan.suite
    figure.suptitle(f"{suite.name} on {measurement.target}: {suite.about}")
    service_panel(above, measurement)
    ttft_panel(below, measurement)
    above.set_xlabel("")
    finish(figure, [above, below])
    figure.savefig(path, format="png", dpi=120)


def new_figure(width_inches: float, height_inches: float) -> Any:
    """An empty figure that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def finish(figure: Any, panels: Sequence[Axes]) -> None:
    """Finish a figure: one legend below the panels, and axes that start at 0."""
    for axes in panels:
        if axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def service_panel(axes: Axes, measurement: Measurement) -> None:
    """Accumulated service, in tokens of input."""
    moments = np.linspace(0, measurement.end_s, POINTS)
    for colour, (name, curve) in zip(_colours(measurement), measurement.curves.items(), strict=True):
        axes.plot(moments, curve.at(moments), label=name, color=colour)
    axes.set_xlabel("seconds")
    axes.set_ylabel("accumulated service\n(input + 2 × output tokens)")
    axes.grid(alpha=0.3)


def ttft_panel(axes: Axes, measurement: Measurement) -> None:
    """Time to first token by sending time, in the colours of the service panel. A triangle is how long a request
    without an answer has waited."""
    waits: list[float] = []
    unanswered = False
    for colour, (name, records) in zip(_colours(measurement), measurement.records.items(), strict=True):
        answered = [(r.sent_s, r.ttft_s) for r in records if r.ttft_s is not None]
        open_ones = [(r.sent_s, _waited_s(r, measurement.end_s)) for r in records if _is_open(r)]
        waits += [wait for _, wait in answered + open_ones if wait > 0]
        unanswered = unanswered or bool(open_ones)
        axes.scatter(*_columns(answered), s=10, color=colour, label=name)
        axes.scatter(*_columns(open_ones), s=14, marker="^", facecolors="none", edgecolors=colour)
    if waits and max(waits) > WIDE_RANGE * min(waits):
        axes.set_yscale("log")
    axes.set_xlabel("sent at, seconds")
    axes.set_ylabel("time to first token, s" + ("\n(△: none before the end)" if unanswered else ""))
    axes.grid(alpha=0.3)


def _is_open(record: Record) -> bool:
    return record.first_s is None and record.outcome not in (Outcome.REFUSED, Outcome.FAILED)


def _waited_s(record: Record, end_s: float) -> float:
    return (end_s if record.done_s is None else record.done_s) - record.sent_s


def _columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _colours(measurement: Measurement) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(measurement.records))]
