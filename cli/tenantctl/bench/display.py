"""Shows a run: a live table on a terminal, otherwise a line now and then, and the figures at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tenantctl.bench.figures import Quantile
from tenantctl.bench.load import Progress, Watch
from tenantctl.bench.measurement import Measurement
from tenantctl.bench.observed import Outcome, Tally
from tenantctl.bench.suites import INPUT_COST, OUTPUT_COST
from tenantctl.render import message, print_table
from tenantctl.units import NOTHING

LINE_EVERY_S: Final = 5.0
RATE_OVER_S: Final = 2.0
BAR_CELLS: Final = 24
MOST_REASONS: Final = 3


# ---- while it runs


@contextmanager
def watching() -> Iterator[Watch]:
    """The live view of a run, on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().show
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        rates = _Rates()
        yield lambda progress: live.update(_table(progress, rates), refresh=True)


class _Rates:
    """Output tokens per second of each tenant in the last few seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def of(self, tenant: str, now_s: float, tokens: int) -> float:
        seen = self._seen.setdefault(tenant, [])
        if seen and now_s < seen[-1][0]:  # another run began
            seen.clear()
        seen.append((now_s, tokens))
        while len(seen) > 2 and seen[0][0] < now_s - RATE_OVER_S:
            del seen[0]
        (first_s, first), (last_s, last) = seen[0], seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


def _table(progress: Progress, rates: _Rates) -> Table:
    left_s = progress.plan.duration_s - progress.elapsed_s
    table = Table(box=None, pad_edge=False, title=f"{progress.plan.suite.name}: {left_s:.0f} s to go", title_style="")
    table.title_justify = "left"
    table.add_column("tenant", no_wrap=True)
    for column in ("waiting", "running", "done", "refused", "failed", "first token", "tokens/s"):
        table.add_column(column, justify="right")
    table.add_column("service", no_wrap=True)
    total = sum(map(served, progress.tallies.values()))
    for name, tally in progress.tallies.items():
        share = served(tally) / total if total else 0.0
        table.add_row(
            Text(name),
            *[str(tally.outcomes[o]) for o in (Outcome.WAITING, Outcome.RUNNING, Outcome.DONE)],
            *[str(tally.outcomes[o]) for o in (Outcome.REFUSED, Outcome.FAILED)],
            seconds(median(tally.recent_ttft_s) if tally.recent_ttft_s else None),
            f"{rates.of(name, progress.elapsed_s, tally.output_tokens):,.0f}",
            Text.assemble(("█" * round(BAR_CELLS * share), "cyan"), f" {share:.0%}"),
        )
    return table


class _Lines:
    """The live view for a pipe."""

    def __init__(self) -> None:
        self._next_s = LINE_EVERY_S

    def show(self, progress: Progress) -> None:
        now_s = progress.elapsed_s
        if now_s < self._next_s - LINE_EVERY_S:  # another run began
            self._next_s = LINE_EVERY_S
        if now_s >= self._next_s:
            self._next_s += LINE_EVERY_S
            total = sum(map(served, progress.tallies.values())) or 1
            message(
                f"{now_s:.0f} of {progress.plan.duration_s:.0f} s: "
                + "; ".join(
                    f"{name} {tally.outcomes[Outcome.WAITING]} waiting, {tally.outcomes[Outcome.RUNNING]} running, "
                    f"{tally.outcomes[Outcome.DONE]} done, {served(tally) / total:.0%} of the service"
                    for name, tally in progress.tallies.items()
                )
            )


def served(tally: Tally) -> int:
    """Each tenant's service so far."""
    return INPUT_COST * tally.prompt_tokens + OUTPUT_COST * tally.output_tokens


# ---- when it is over


def print_figures(measurement: Measurement) -> None:
    """Print the figures on standard output."""
    columns = ["tenant", "weight>", "requests>", "done>", "refused>", "failed>", "first token p50>", "p99>"]
    columns += ["inter-token p50>", "p99>", "tokens/s>", "service>", "share>"]
    print_table(
        columns,
        [
            (
                f.name,
                f"{f.weight:g}",
                f.requests,
                f.done,
                f.refused,
                f.failed,
                quantile(f.ttft_p50),
                quantile(f.ttft_p99),
                seconds(f.inter_token_p50_s),
                seconds(f.inter_token_p99_s),
                f"{f.output_tokens_per_s:,.1f}",
                f"{f.service:,.0f}",
                f"{f.share:.1%}",
            )
            for f in measurement.figures.values()
        ],
    )
    print(f"total: {measurement.output_tokens_per_s:,.1f} output tokens/s, {measurement.service_per_s:,.0f} service/s")
    gap = measurement.gap
    if gap.of:
        print(
            f"largest service gap while both waited: {gap.service:,.0f} between {' and '.join(gap.of)}, "
            f"from {gap.from_s:.1f} to {gap.to_s:.1f} s"
        )
    for line in next_to_newcomer(measurement):
        print(line)
    for note in notes(measurement):
        message(note)


def next_to_newcomer(measurement: Measurement) -> Iterator[str]:
    """How long the others have waited since the suite's newcomer arrived."""
    newcomer = measurement.plan.suite.newcomer
    for tenant in measurement.figures:
        p50, p99 = (measurement.ttft_next_to_newcomer(tenant, share) for share in (0.5, 0.99))
        if tenant != newcomer and p50 is not None:
            yield f"{tenant}'s first token after {newcomer} arrived: p50 {quantile(p50)}, p99 {quantile(p99)}"


def notes(measurement: Measurement) -> Iterator[str]:
    """Caveats that a reader of the figures must know."""
    if measurement.interrupted:
        yield f"ended early: {measurement.end_s:.1f} of {measurement.plan.duration_s:g} s were measured"
    for reason, count in list(measurement.failures().items())[:MOST_REASONS]:
        yield f"{count} requests: {reason}"
    figures = measurement.figures.values()
    if cut := sum(f.cut for f in figures):
        yield f"{cut} requests were cut off at the end of the run; their tokens count"
    if short := sum(f.short for f in figures):
        yield f"{short} answers were shorter than requested; does the server support ignore_eos?"
    if any(q and q.at_least for f in figures for q in (f.ttft_p50, f.ttft_p99)):
        yield "≥: lower bound, because too many requests had no answer yet"


def quantile(value: Quantile | None) -> str:
    """Like `seconds`, but marks a lower bound."""
    return NOTHING if value is None else ("≥" if value.at_least else "") + seconds(value.seconds)


def seconds(value: float | None) -> str:
    """Three significant digits: 12.3 ms, 1.23 s."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{value * 1000:.{1 if value < 0.1 else 0}f} ms"
    return f"{value:.{2 if value < 10 else 1}f} s"
